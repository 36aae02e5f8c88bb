// Package config is the configuration of the program: settings from flags, the environment and a YAML file,
// checked, with the place that each value came from.
package config

import (
	"cmp"
	"time"
)

// Config is everything that can be set, with its default and its unit. A key is written the same way
// everywhere: http.idle-timeout is a flag (-http.idle-timeout=2m), two levels of the YAML file, and
// the environment variable TETHER_HTTP_IDLE_TIMEOUT. A flag wins over the environment, and the
// environment over the file.
//
// Tags: help and default say what they say; min and max bound a number or a duration; enum lists what
// is allowed; secret hides the value wherever it would be printed; reload marks what SIGHUP changes
// in a running server. docs/configuration.md is made from this struct.
type Config struct {
	Addr       string   `default:"127.0.0.1:3000" help:"Address to listen on, host:port. The default is for this host only; :3000 is all addresses of the host. Port 0 takes a free one, which the log names."`
	Node       string   `placeholder:"NAME" help:"Name of this node in logs and answers. Default: the name of the host."`
	Broker     Secret   `default:"memory://" secret:"" help:"URL of the broker between the nodes: redis://, rediss://, nats://, tls://, or memory:// for a single node. file:PATH reads it from a file."`
	Prefix     string   `default:"tether" help:"Beginning of all names in the broker. Nodes and workers with the same broker and prefix are one cluster."`
	Namespaces []string `default:"/" help:"Namespaces that clients may join. Any other is refused."`

	Auth    AuthConfig    `embed:"" prefix:"auth." group:"Who a client is:"`
	Emit    EmitConfig    `embed:"" prefix:"emit." group:"The HTTP API that emits:"`
	Stats   StatsConfig   `embed:"" prefix:"stats." group:"Monitoring:"`
	Devices DevicesConfig `embed:"" prefix:"devices." group:"Devices of a user:"`
	Client  ClientConfig  `embed:"" prefix:"client." group:"Connections of clients:"`
	Limits  LimitsConfig  `embed:"" prefix:"limits." group:"What one client may send:"`
	CORS    CORSConfig    `embed:"" prefix:"cors." group:"Web pages of other origins:"`
	HTTP    HTTPConfig    `embed:"" prefix:"http." group:"HTTP requests:"`
	TLS     TLSConfig     `embed:"" prefix:"tls." group:"TLS:"`
	Log     LogConfig     `embed:"" prefix:"log." group:"The log, on standard error:"`
	Drain   DrainConfig   `embed:"" prefix:"drain." group:"The end, after SIGTERM or Ctrl-C:"`
}

// AuthConfig says who a client is.
type AuthConfig struct {
	Mode     string        `default:"token" enum:"token,none" help:"token: auth.token of a client is an encrypted token that holds its user ID. none: every client is anonymous."`
	Keys     []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Keys of encrypted tokens, each the base64 of 16, 24 or 32 bytes. The first one is current. The others open older tokens. file:PATH reads one key from each line. auth.mode=token needs it; tether key makes one."`
	Required bool          `default:"false" reload:"" help:"Refuse clients without a token. Otherwise they connect and belong to nobody."`
	Leeway   time.Duration `default:"30s" min:"0s" max:"10m" help:"How long a token is still good after it has expired, because clocks differ."`
}

// EmitConfig is the HTTP API that any language emits through.
type EmitConfig struct {
	Enabled    bool          `default:"true" help:"Serve POST /emit, /emit/batch and /disconnect, and GET /stats."`
	Keys       []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys of the API, each of 16 characters or more. Any of them opens it. file:PATH reads one key from each line. emit.enabled needs it; tether key makes one."`
	Events     []string      `placeholder:"EVENT" help:"Events that may be emitted. Empty: any."`
	MaxBody    int           `default:"1048576" min:"1024" max:"67108864" help:"Size of a request body in bytes; a larger one gets 413."`
	MaxTargets int           `default:"10000" min:"1" max:"100000" help:"Users and rooms of one POST /emit/batch; more get 400."`
	MaxActive  int           `default:"256" min:"1" max:"65536" help:"Requests of the API that are served at once; more get 503 with Retry-After."`
	Timeout    time.Duration `default:"5s" min:"10ms" max:"1m" help:"How long the broker may take before a request gets 503. The brokers give up by themselves within 1.5 s."`
}

// StatsConfig is what monitoring and autoscaling read.
type StatsConfig struct {
	Keys []Secret `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys that open GET /stats and nothing else, each of 16 characters or more. emit.keys open it too. file:PATH reads one key from each line."`
}

// DevicesConfig bounds how many connections a user may have.
type DevicesConfig struct {
	Max    int    `default:"0" min:"0" max:"10000" help:"Sockets that one user may have in the whole cluster; 0: no limit."`
	Exceed string `default:"end-oldest" enum:"end-oldest,refuse-new" help:"What happens when a user has too many: the oldest go, or the new one is refused, also by an old socket whose network has gone and that is not noticed yet."`
}

// ClientConfig is what a Socket.IO client is given, and what it may use.
type ClientConfig struct {
	Path              string        `default:"/socket.io/" help:"Path that clients connect to. The option path of the client has to be the same."`
	Transports        []string      `default:"polling,websocket" help:"polling, websocket, or both. Polling over several nodes needs a proxy with sticky sessions."`
	Upgrade           bool          `default:"true" help:"Let clients that poll change to WebSocket."`
	Cookie            string        `placeholder:"NAME" help:"Name of a cookie with the ID of the session. A load balancer can use it to send a polling client to its node. Empty: no cookie."`
	PingInterval      time.Duration `default:"25s" min:"100ms" max:"10m" help:"Time between two pings of the server."`
	PingTimeout       time.Duration `default:"20s" min:"100ms" max:"10m" help:"How long a client may take to answer a ping before it is offline."`
	ConnectTimeout    time.Duration `default:"45s" min:"100ms" max:"10m" help:"How long a connection may be without a namespace."`
	HookTimeout       time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long it may take to let a client into a namespace, with what the broker needs for it. Then the connection ends. A drain waits as long for clients that are being let in."`
	UpgradeTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long an upgrade from polling to WebSocket may take."`
	MaxPayload        int           `default:"1000000" min:"1024" max:"67108864" help:"Size of a message from a client in bytes."`
	MaxConnections    int           `default:"0" min:"0" max:"10000000" help:"Connections of this node; more get 503. 0: only the operating system limits them."`
	QueueBytes        int           `default:"1048576" min:"4096" max:"1073741824" help:"How much may wait for a client that reads slowly, in bytes."`
	Overflow          string        `default:"close" enum:"close,drop-newest,drop-oldest" help:"What happens when that queue is full: the client is disconnected, or messages are dropped."`
	TotalQueue        int           `default:"268435456" min:"1048576" max:"1099511627776" help:"How much may wait for all clients together, in bytes of memory. Beyond it, clients with the longest queues are disconnected."`
	TotalInbound      int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Unfinished messages and bodies of polling requests of all clients together, in bytes of memory. Beyond it, clients whose message began first are disconnected."`
	TotalAttached     int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Events of all clients together that wait for their binary attachments, in bytes of memory. Beyond it, clients whose event began first are disconnected."`
	TotalHandshakes   int           `default:"67108864" min:"1048576" max:"1099511627776" help:"URLs and headers of all clients together that have not joined a namespace, in bytes of memory. Beyond it, clients that connected first are disconnected."`
	WriteTimeout      time.Duration `default:"5s" min:"100ms" max:"10m" help:"How long a client may take nothing while something is written to it. Then the connection ends."`
	MessageTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long a message of a client may take from its first byte to its last. Then the connection ends."`
	AttachmentTimeout time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long the binary attachments of an event may take to arrive. Then the connection ends."`
	KernelBuffer      int           `default:"65536" min:"4096" max:"16777216" help:"Size of the kernel's send and receive buffer of each connection in bytes."`
	ControlRate       int           `default:"100" min:"1" max:"1000000" help:"How many pings, pongs and tiny fragments a client may send in a second, on the average of a minute. A client that sends more is disconnected."`
	MessageRate       int           `default:"0" min:"0" max:"1000000" help:"How many messages of one client are read in a second. 0: as many as are handled."`
	Compress          bool          `default:"false" help:"Offer permessage-deflate on WebSockets. It costs memory and time for every message."`
	Epoll             bool          `default:"false" help:"Wait for all WebSockets in one loop, and not in a goroutine for each: an idle connection takes a fifth of the memory. It works on Linux without TLS, and changes nothing elsewhere."`
}

// LimitsConfig is what one client may use. The rooms of a socket and the acknowledgements that are awaited
// from it have no setting: this server puts a socket into its user's room only, and asks for none.
type LimitsConfig struct {
	Namespaces  int `default:"16" min:"1" max:"1024" help:"Namespaces of one connection. One more is refused."`
	Namespace   int `default:"256" min:"1" max:"65536" help:"Length of the name of a namespace in bytes. A longer one ends the connection."`
	Depth       int `default:"512" min:"1" max:"512" help:"Levels of the JSON of an event. The list of arguments is the first one. A deeper event ends the connection."`
	Args        int `default:"1024" min:"1" max:"65536" help:"Arguments of an event, with its name. More of them end the connection."`
	EventName   int `default:"256" min:"3" max:"65536" help:"Length of the name of an event in bytes, with its quotes. A longer one ends the connection."`
	Attachments int `default:"10" min:"1" max:"1024" help:"Binary attachments of one event. More of them end the connection."`
	PacketBytes int `default:"8388608" min:"1024" max:"1073741824" help:"Size of an event and its attachments together, in bytes. A larger one ends the connection. client.max-payload limits each message of it."`
	Auth        int `default:"16384" min:"64" max:"1048576" help:"Size of the auth of a client in bytes. A larger one is refused."`
	Events      int `default:"64" min:"1" max:"65536" help:"Events of one connection that wait to be handled. While there are so many, nothing is read from it."`
	EventBytes  int `default:"1048576" min:"1024" max:"1073741824" help:"Size of the events that wait to be handled, together, in bytes. While they are so large, nothing is read from the connection."`
	Held        int `default:"1024" min:"1" max:"65536" help:"Messages held for a client while it is let into a namespace. More of them end the connection."`
	HeldBytes   int `default:"1048576" min:"1024" max:"1073741824" help:"Size of the messages held for a client, together, in bytes. More ends the connection."`
}

// CORSConfig says which web pages may connect.
type CORSConfig struct {
	Origins     []string `placeholder:"ORIGIN" reload:"" help:"Origins of web pages that may connect: https://app.example.com, or * for any. Pages of the server's own host always may."`
	Credentials bool     `default:"false" help:"Let these pages send cookies. It is not possible together with the origin *."`
}

// HTTPConfig is about plain HTTP requests, before a WebSocket is one.
type HTTPConfig struct {
	HeaderTimeout  time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long the head of a request may take to arrive. Then the connection is closed."`
	BodyTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long the body of a request to the API may take to arrive. Then it gets 408."`
	IdleTimeout    time.Duration `default:"2m" min:"1s" max:"1h" help:"How long a connection may stay open without a request."`
	MaxHeaderBytes int           `default:"65536" min:"4096" max:"1048576" help:"Size of the head of a request in bytes. A larger one gets 431."`
}

// TLSConfig makes the server speak TLS itself. Behind a proxy that does, leave it empty.
type TLSConfig struct {
	Cert       string        `placeholder:"FILE" help:"File with the certificate chain, in PEM. With tls.key, the server speaks TLS."`
	Key        string        `placeholder:"FILE" help:"File with the private key of the certificate, in PEM."`
	MinVersion string        `default:"1.2" enum:"1.2,1.3" help:"Lowest version of TLS that is spoken."`
	CheckEvery time.Duration `default:"1m" min:"0s" max:"24h" help:"How often the two files are looked at. A new pair is used without a restart. 0: they are read at SIGHUP only."`
}

// LogConfig is about the log, which goes to standard error and holds neither payloads nor secrets.
type LogConfig struct {
	Level  string `default:"info" enum:"debug,info,warn,error" reload:"" help:"The least important level that is logged."`
	Format string `default:"text" enum:"text,json" help:"Format of the log."`
}

// DrainConfig is how the server ends after SIGTERM or SIGINT.
type DrainConfig struct {
	Delay   time.Duration `default:"2s" min:"0s" max:"10m" help:"How long /readyz says 503 while everything still works. Meanwhile load balancers go elsewhere."`
	Window  time.Duration `default:"0s" min:"0s" max:"1h" help:"Time after that, over which the clients are disconnected evenly. 0: 10 ms for each client, and at most 10 s."`
	Timeout time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long requests in progress may take after that."`
}

// StopTime is how long a server may take from SIGTERM to its end. What stops it has to wait for longer.
func (c *Config) StopTime() time.Duration {
	const (
		widest = 10 * time.Second // window by default
		grace  = 5 * time.Second  // that the hub gives connections to end
	)
	return c.Drain.Delay + cmp.Or(c.Drain.Window, widest) + grace + c.Client.HookTimeout + c.Drain.Timeout + c.Client.WriteTimeout
}
