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
	Node       string   `placeholder:"NAME" help:"Name of this node in logs and answers. Default: the host name."`
	Broker     Secret   `default:"memory://" secret:"" help:"URL of the broker between the nodes: redis://, rediss://, nats://, tls://, or memory:// for a single node. file:PATH reads it from a file."`
	Prefix     string   `default:"tether" help:"Begins all names in the broker. Servers and workers that share a broker and a prefix are one cluster."`
	Namespaces []string `default:"/" help:"Namespaces that clients may join. Any other is refused."`

	Auth    AuthConfig    `embed:"" prefix:"auth."`
	Emit    EmitConfig    `embed:"" prefix:"emit."`
	Stats   StatsConfig   `embed:"" prefix:"stats."`
	Devices DevicesConfig `embed:"" prefix:"devices."`
	Client  ClientConfig  `embed:"" prefix:"client."`
	Limits  LimitsConfig  `embed:"" prefix:"limits."`
	CORS    CORSConfig    `embed:"" prefix:"cors."`
	HTTP    HTTPConfig    `embed:"" prefix:"http."`
	TLS     TLSConfig     `embed:"" prefix:"tls."`
	Log     LogConfig     `embed:"" prefix:"log."`
	Drain   DrainConfig   `embed:"" prefix:"drain."`
}

// AuthConfig says who a client is.
type AuthConfig struct {
	Mode     string        `default:"token" enum:"token,none" help:"token: auth.token of a client is an encrypted token that holds its user ID. none: every client is anonymous."`
	Keys     []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Keys of encrypted tokens, each the base64 of 16, 24 or 32 bytes. The first is the current one, the others open older tokens. file:PATH reads one key per line. Needed with auth.mode=token; tether key makes one."`
	Required bool          `default:"false" reload:"" help:"Refuse clients without a token. Otherwise they connect and belong to nobody."`
	Leeway   time.Duration `default:"30s" min:"0s" max:"10m" help:"How long past its expiry a token is still good, for clocks that differ."`
}

// EmitConfig is the HTTP API that any language emits through.
type EmitConfig struct {
	Enabled    bool          `default:"true" help:"Serve POST /emit, /emit/batch and /disconnect, and GET /stats."`
	Keys       []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys of the API, each of 16 characters or more; any of them opens it. file:PATH reads one key per line. Needed with emit.enabled; tether key makes one."`
	Events     []string      `placeholder:"EVENT" help:"Events that may be emitted. Empty: any."`
	MaxBody    int           `default:"1048576" min:"1024" max:"67108864" help:"Size of a request body in bytes; a larger one gets 413."`
	MaxTargets int           `default:"10000" min:"1" max:"100000" help:"Users and rooms of one POST /emit/batch; more get 400."`
	MaxActive  int           `default:"256" min:"1" max:"65536" help:"Requests of the API that are served at once; more get 503 with Retry-After."`
	Timeout    time.Duration `default:"5s" min:"10ms" max:"1m" help:"How long the broker may take before a request gets 503. The brokers give up sooner by themselves, in 1.5 s; but NATS takes 3.5 s to be sure that a frozen node does not answer."`
}

// StatsConfig is what monitoring and autoscaling read.
type StatsConfig struct {
	Keys []Secret `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys that open GET /stats and nothing else, each of 16 characters or more. emit.keys open it too. file:PATH reads one key per line."`
}

// DevicesConfig bounds how many connections a user may have.
type DevicesConfig struct {
	Max    int    `default:"0" min:"0" max:"10000" help:"Sockets that one user may have in the whole cluster; 0: no limit."`
	Exceed string `default:"end-oldest" enum:"end-oldest,refuse-new" help:"What happens when a user has too many: the oldest go, or the new one is refused, also by an old socket whose network has gone and that is not noticed yet."`
}

// ClientConfig is what a Socket.IO client is given, and what it may use.
type ClientConfig struct {
	Path              string        `default:"/socket.io/" help:"Path that clients connect to; the same as the path of the client."`
	Transports        []string      `default:"polling,websocket" help:"polling, websocket, or both. Polling over several nodes needs a proxy with sticky sessions."`
	Upgrade           bool          `default:"true" help:"Let clients that poll go over to WebSocket."`
	Cookie            string        `placeholder:"NAME" help:"Name of a cookie with the ID of the session, for load balancers that send a client that polls to its node by it. Empty: none is set."`
	PingInterval      time.Duration `default:"25s" min:"100ms" max:"10m" help:"Time between two pings of the server."`
	PingTimeout       time.Duration `default:"20s" min:"100ms" max:"10m" help:"How long a client may take to answer a ping before it is offline."`
	ConnectTimeout    time.Duration `default:"45s" min:"100ms" max:"10m" help:"How long a connection may be without a namespace."`
	HookTimeout       time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long it may take to let a client into a namespace, the broker's part included; then the connection ends. Also how long a drain waits for those that are still being let in."`
	UpgradeTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long an upgrade from polling to WebSocket may take."`
	MaxPayload        int           `default:"1000000" min:"1024" max:"67108864" help:"Size of a message from a client in bytes."`
	MaxConnections    int           `default:"0" min:"0" max:"10000000" help:"Connections of this node; more get 503. 0: no limit but that of the operating system."`
	QueueBytes        int           `default:"1048576" min:"4096" max:"1073741824" help:"Bytes that wait for a client that reads slowly."`
	Overflow          string        `default:"close" enum:"close,drop-newest,drop-oldest" help:"What happens when that queue is full: the client is disconnected, or messages are dropped."`
	TotalQueue        int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Bytes of memory for what waits for all clients together. Past it, those with the longest queues are disconnected."`
	TotalInbound      int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Bytes of memory for messages and bodies of polling requests of all clients together that have not come to their ends. Past it, those that began first are disconnected."`
	TotalAttached     int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Bytes of memory for events of all clients together whose binary attachments are still missing. Past it, those that began first are disconnected."`
	WriteTimeout      time.Duration `default:"5s" min:"100ms" max:"10m" help:"How long the connection of a client may stand still while something is being written to it; then it ends."`
	MessageTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long a message of a client may take from its first byte to its last; then the connection ends."`
	AttachmentTimeout time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long the binary attachments of an event may take to arrive; then the connection ends."`
	KernelBuffer      int           `default:"65536" min:"4096" max:"16777216" help:"Size of the kernel's send and receive buffer of each connection in bytes."`
	ControlRate       int           `default:"100" min:"1" max:"1000000" help:"Pings, pongs, tiny fragments and the like that a client may send in a second, on the average of a minute; a client that sends more is disconnected."`
	MessageRate       int           `default:"0" min:"0" max:"1000000" help:"Messages of one client that are read in a second. 0: as fast as they are handled."`
	Compress          bool          `default:"false" help:"Offer permessage-deflate on WebSockets. It costs memory and time on every message."`
	Epoll             bool          `default:"false" help:"Wait for all WebSockets in one loop instead of a goroutine each: a fifth of the memory of an idle connection. Linux only, and not with TLS; elsewhere it changes nothing."`
}

// LimitsConfig is what one client may use. The rooms of a socket and the acknowledgements that are awaited
// from it have no setting: this server puts a socket into its user's room only, and asks for none.
type LimitsConfig struct {
	Namespaces  int `default:"16" min:"1" max:"1024" help:"Namespaces of one connection; joining one more is refused."`
	Namespace   int `default:"256" min:"1" max:"65536" help:"Length of a namespace in bytes. Past this and the next five the connection ends."`
	Depth       int `default:"512" min:"1" max:"512" help:"Nesting of the JSON of an event; its list of arguments is the first level."`
	Args        int `default:"1024" min:"1" max:"65536" help:"Arguments of an event, its name included."`
	EventName   int `default:"256" min:"3" max:"65536" help:"Length of the name of an event in bytes, with its quotes."`
	Attachments int `default:"10" min:"1" max:"1024" help:"Binary attachments of one event."`
	PacketBytes int `default:"8388608" min:"1024" max:"1073741824" help:"Size of an event with its attachments in bytes. Each of them, and an event without any, is limited by client.max-payload."`
	Auth        int `default:"16384" min:"64" max:"1048576" help:"Size of the auth of a client in bytes; a larger one is refused."`
	Events      int `default:"64" min:"1" max:"65536" help:"Events of one connection that wait to be handled; while there are so many, it is not read from."`
	EventBytes  int `default:"1048576" min:"1024" max:"1073741824" help:"Size of such events together in bytes, with the same effect."`
	Held        int `default:"1024" min:"1" max:"65536" help:"Messages held for a client that is being let into a namespace; past it the connection ends."`
	HeldBytes   int `default:"1048576" min:"1024" max:"1073741824" help:"Size of such messages together in bytes, with the same effect."`
}

// CORSConfig says which web pages may connect.
type CORSConfig struct {
	Origins     []string `placeholder:"ORIGIN" reload:"" help:"Origins of web pages that may connect beside those of the server's own host: https://app.example.com, or * for any."`
	Credentials bool     `default:"false" help:"Let those pages send cookies. Not possible together with the origin *."`
}

// HTTPConfig is about plain HTTP requests, before a WebSocket is one.
type HTTPConfig struct {
	HeaderTimeout  time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long a request head may take to arrive; then the connection is closed."`
	BodyTimeout    time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long the body of a request to the API may take to arrive; then 408."`
	IdleTimeout    time.Duration `default:"2m" min:"1s" max:"1h" help:"How long a kept-alive connection may be without a request."`
	MaxHeaderBytes int           `default:"65536" min:"4096" max:"1048576" help:"Size of a request head in bytes; a larger one gets 431."`
}

// TLSConfig makes the server speak TLS itself. Behind a proxy that does, leave it empty.
type TLSConfig struct {
	Cert       string        `placeholder:"FILE" help:"Certificate chain, a PEM file. With tls.key, the server speaks TLS."`
	Key        string        `placeholder:"FILE" help:"Private key of the certificate, a PEM file."`
	MinVersion string        `default:"1.2" enum:"1.2,1.3" help:"Lowest version of TLS that is spoken."`
	CheckEvery time.Duration `default:"1m" min:"0s" max:"24h" help:"How often the two files are looked at; a new pair is taken into use without a restart. 0: at SIGHUP only."`
}

// LogConfig is about the log, which goes to standard error and holds neither payloads nor secrets.
type LogConfig struct {
	Level  string `default:"info" enum:"debug,info,warn,error" reload:"" help:"The least important level that is logged."`
	Format string `default:"text" enum:"text,json" help:"Format of the log."`
}

// DrainConfig is how the server ends after SIGTERM or SIGINT.
type DrainConfig struct {
	Delay   time.Duration `default:"2s" min:"0s" max:"10m" help:"How long /readyz says 503 while everything still works, so that load balancers go elsewhere first."`
	Window  time.Duration `default:"0s" min:"0s" max:"1h" help:"Time over which the clients are disconnected after that, evenly. 0: 10 ms for each client, and at most 10s."`
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
