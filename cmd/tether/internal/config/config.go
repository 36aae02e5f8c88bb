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
	Key        []Secret `placeholder:"KEY" secret:"" help:"Keys that keep strangers at the broker out of the cluster, each the base64 of 16, 24 or 32 bytes. All nodes and workers need the same. The first one is used, the others are accepted, for the time in which keys change. file:PATH reads one key from each line. None: everybody who can publish at the broker is trusted. tether key makes one."`
	Seal       bool     `default:"false" help:"Encrypt what goes through the broker with the key, too. Otherwise it is authenticated, and can be read there."`
	Plain      string   `default:"refuse" enum:"refuse,send,accept" help:"What is done with messages without a key, while a cluster gets its first one: send them, and accept both; then accept both; then refuse them. Each step when all nodes and workers have taken the last one."`
	Namespaces []string `default:"/" help:"Namespaces that clients may join. Any other is refused."`

	Auth    AuthConfig     `embed:"" prefix:"auth." group:"Who a client is:"`
	Emit    EmitConfig     `embed:"" prefix:"emit." group:"The HTTP API that emits:"`
	Stats   StatsConfig    `embed:"" prefix:"stats." group:"Monitoring:"`
	Admin   AdminConfig    `embed:"" prefix:"admin." group:"The page for operators:"`
	AdminUI AdminUIConfig  `embed:"" prefix:"admin-ui." group:"The official Admin UI of Socket.IO:"`
	Tracing TracingConfig  `embed:"" prefix:"tracing." group:"Traces, for OpenTelemetry:"`
	Devices DevicesConfig  `embed:"" prefix:"devices." group:"Devices of a user:"`
	Revoke  RevokeConfig   `embed:"" prefix:"revoke." group:"Tokens that are revoked:"`
	Webhook WebhookConfig  `embed:"" prefix:"webhook." group:"Telling another program who comes and goes:"`
	Client  ClientConfig   `embed:"" prefix:"client." group:"Connections of clients:"`
	Relay   RelayConfig    `embed:"" prefix:"relay." group:"Polling over several nodes:"`
	Recover RecoveryConfig `embed:"" prefix:"recovery." group:"Clients that come back:"`
	Balance BalanceConfig  `embed:"" prefix:"rebalance." group:"Nodes that have too many connections:"`
	Limits  LimitsConfig   `embed:"" prefix:"limits." group:"What one client may send:"`
	CORS    CORSConfig     `embed:"" prefix:"cors." group:"Web pages of other origins:"`
	HTTP    HTTPConfig     `embed:"" prefix:"http." group:"HTTP requests:"`
	TLS     TLSConfig      `embed:"" prefix:"tls." group:"TLS:"`
	Log     LogConfig      `embed:"" prefix:"log." group:"The log, on standard error:"`
	Drain   DrainConfig    `embed:"" prefix:"drain." group:"The end, after SIGTERM or Ctrl-C:"`
}

// AuthConfig says who a client is.
type AuthConfig struct {
	Mode     string        `default:"token" enum:"token,none" help:"token: auth.token of a client is an encrypted token that holds its user ID. none: every client is anonymous."`
	Keys     []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Keys of encrypted tokens, each the base64 of 16, 24 or 32 bytes. The first one is current. The others open older tokens. file:PATH reads one key from each line. auth.mode=token needs it; tether key makes one."`
	Required bool          `default:"false" reload:"" help:"Refuse clients without a token. Otherwise they connect and belong to nobody."`
	Leeway   time.Duration `default:"30s" min:"0s" max:"10m" help:"How long a token is still good after it has expired, because clocks differ."`
	Notice   time.Duration `default:"0s" min:"0s" max:"24h" help:"How long before its token ends the connection a client is told, with the event /ops/token-expires, so that it brings a new one. 0: it is not told."`
}

// EmitConfig is the HTTP API that any language emits through.
type EmitConfig struct {
	Enabled    bool          `default:"true" help:"Serve POST /emit, /emit/batch, /disconnect, /revoke, /sockets, /online, /join, /leave and /ask, GET /stats and GET /metrics."`
	Keys       []Secret      `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys of the API, each of 16 characters or more. Any of them opens it. file:PATH reads one key from each line. emit.enabled needs it; tether key makes one."`
	Events     []string      `placeholder:"EVENT" help:"Events that may be emitted. Empty: any."`
	MaxBody    int           `default:"1048576" min:"1024" max:"67108864" help:"Size of a request body in bytes; a larger one gets 413."`
	MaxTargets int           `default:"10000" min:"1" max:"100000" help:"Users and rooms of one POST /emit/batch; more get 400."`
	MaxActive  int           `default:"256" min:"1" max:"65536" help:"Requests of the API that are served at once; more get 503 with Retry-After."`
	Timeout    time.Duration `default:"5s" min:"10ms" max:"1m" help:"How long the broker may take before a request gets 503. The brokers give up by themselves within 1.5 s. Nodes have as long for what they are asked; then the answer is 200, and names in missing those that have not answered."`
}

// StatsConfig is what monitoring and autoscaling read.
type StatsConfig struct {
	Keys []Secret `placeholder:"KEY" secret:"" reload:"" help:"Bearer keys that open GET /stats and GET /metrics and nothing else, each of 16 characters or more. emit.keys open it too. file:PATH reads one key from each line."`
}

// AdminConfig is the page for operators.
type AdminConfig struct {
	Addr string   `placeholder:"ADDR" help:"Address of the page for operators, host:port, with GET /metrics beside it: 127.0.0.1:3001 is for this host only. Empty: none. An address that others reach needs admin.keys, and then TLS, of tls.cert or of a proxy."`
	Keys []Secret `placeholder:"KEY" secret:"" reload:"" help:"Keys that open the page, each of 16 characters or more: as a password, with any name, or as a bearer key. With one, tether emit --follow and tether follow say what becomes of events. file:PATH reads one key from each line. tether key makes one."`

	FollowEvery int `default:"0" min:"0" max:"1000000000" help:"Follow one in so many of the events that this node emits, without being asked. 0: none. It needs admin.keys."`
}

// AdminUIConfig is the official Admin UI of Socket.IO, whose page anybody may host.
type AdminUIConfig struct {
	Mode       string `default:"off" enum:"off,production,development" help:"Let the page of @socket.io/admin-ui connect, the same on all nodes. In production it shows the nodes, and what goes through them. In development it lists sockets, rooms and the names of events, too."`
	Username   string `default:"admin" help:"Name that lets operators in."`
	Password   Secret `placeholder:"PASSWORD" secret:"" reload:"" help:"Password that lets them in, of 16 characters or more, the same on all nodes. file:PATH reads it from a file. admin-ui.mode needs it; tether key makes one."`
	Namespace  string `default:"/admin" help:"Namespace that the page connects to, which is not among namespaces."`
	ReadOnly   bool   `default:"false" help:"Let the page look only: it disconnects nobody, and moves nobody between rooms."`
	MaxSockets int    `default:"1000" min:"1" max:"1000" help:"How many sockets the whole cluster may have for the page to list them, its own included. With more, it shows what it shows in production."`
}

// The modes of AdminUIConfig that code asks for.
const (
	AdminUIOff         = "off"
	AdminUIDevelopment = "development"
)

// TracingConfig says where spans go.
type TracingConfig struct {
	On       bool   `default:"false" help:"Send spans of events to an OpenTelemetry collector, over HTTP (OTLP). The variables OTEL_ of the environment have their usual meaning."`
	Endpoint string `placeholder:"URL" help:"Where they are sent: http://localhost:4318. /v1/traces is added if it has no path. Empty: what OTEL_EXPORTER_OTLP_ENDPOINT says, or http://localhost:4318."`
	Every    int    `default:"0" min:"0" max:"1000000000" reload:"" help:"Begin a trace at one in so many requests of POST /emit and its neighbours. 0: at none. A request with a sampled traceparent is in its trace, whatever this says. The sampler of OTEL_TRACES_SAMPLER decides, too."`
}

// DevicesConfig bounds how many connections a user may have.
type DevicesConfig struct {
	Max    int    `default:"0" min:"0" max:"10000" help:"Sockets that one user may have in the whole cluster; 0: no limit."`
	Exceed string `default:"end-oldest" enum:"end-oldest,refuse-new" help:"What happens when a user has too many: the oldest go, or the new one is refused, also by an old socket whose network has gone and that is not noticed yet."`
}

// RevokeConfig is how long a revocation is remembered.
type RevokeConfig struct {
	Lifetime time.Duration `default:"24h" min:"1m" max:"8784h" help:"How long a revocation is remembered, in the memory of all nodes: as long as a token may be good. It is the same on all nodes."`
	Max      int           `default:"100000" min:"1" max:"10000000" help:"Revocations that are remembered, about 150 bytes each. What is revoked beyond them has to go, and may come back; the answer says so."`
}

// WebhookConfig says which program is told over HTTP that users come and go.
type WebhookConfig struct {
	URL      Secret        `placeholder:"URL" secret:"" help:"Where it is told, with POST. It may be a file:PATH. Empty: nobody is told."`
	Keys     []Secret      `placeholder:"KEY" secret:"" help:"Keys that sign each request, each of 16 characters or more. file:PATH reads one key from each line. webhook.url needs it; tether key makes one."`
	Grace    time.Duration `default:"10s" min:"0s" max:"10m" help:"How long a user whose last device has gone still counts as online."`
	Patience time.Duration `default:"15m" min:"1s" max:"24h" help:"For how long events are sent again that are not taken. Then they are given up, and the log says so."`
	Queue    int           `default:"1000" min:"1" max:"1000000" help:"Events of this node that wait for an answer at most."`
}

// ClientConfig is what a Socket.IO client is given, and what it may use.
type ClientConfig struct {
	Path              string        `default:"/socket.io/" help:"Path that clients connect to. The option path of the client has to be the same."`
	Transports        []string      `default:"polling,websocket" help:"polling, websocket, or both. Polling over several nodes needs relay.on, or a proxy with sticky sessions."`
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
	TotalUnfinished   int           `default:"268435456" min:"1048576" max:"1099511627776" help:"Unfinished messages and bodies of polling requests of all clients together, in bytes of memory. Beyond it, clients whose message began first are disconnected."`
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

// RelayConfig is how requests of polling clients find the node that has their session.
type RelayConfig struct {
	On          bool          `default:"true" help:"Take requests of polling clients on any node, and pass them on to the node that has the session: no proxy needs sticky sessions. The ID of a session names its node then."`
	UpgradeWait time.Duration `default:"300ms" min:"1ms" max:"10s" help:"How long a new session is ready to go to another node, if the WebSocket comes there to which its client upgrades: its first messages are kept so long, and longer for a client that is far away. Later the client stays on polling."`

	Peer string `placeholder:"URL" help:"URL of this server for the other nodes: http://10.0.0.5:3000. They pass such requests on to there, at /tether-relay, which proxies should not let anybody reach from outside. It asks for the key, if there is one. Empty: they go through the broker."`
}

// RecoveryConfig is for clients that have lost their connection and come back to their session.
type RecoveryConfig struct {
	On           bool          `default:"false" help:"Keep what a client misses while its connection is lost, and its rooms: Socket.IO's connection state recovery, on whatever node it comes back to. Clients ask for it with recovery=1 in the query or {recovery: true} in their auth."`
	All          bool          `default:"false" help:"Give it to clients that have not asked, too. Each event then has one more argument, which clients other than socket.io-client 4.6 and later may stumble over."`
	Window       time.Duration `default:"2m" min:"1s" max:"1h" help:"How long a session waits for its client."`
	SessionBytes int           `default:"1048576" min:"4096" max:"1073741824" help:"Memory for what one client misses, in bytes. Beyond it the oldest goes, and the client begins anew."`
	UserBytes    int           `default:"4194304" min:"4096" max:"1073741824" help:"The same for all waiting sessions of a user on this node, together."`
	TotalBytes   int           `default:"268435456" min:"1048576" max:"1099511627776" help:"The same for all sessions of this node, together."`
	Log          bool          `default:"false" help:"Have the broker keep what is emitted, and where each session stands, so that clients of a node that is killed go on, too. The URL of the broker, Redis or NATS with JetStream, says for how long, on all nodes and for all emitters: redis://host?log=5m. That has to be twice the window or more."`
}

// BalanceConfig is when a node gives connections up, so that their clients come back to nodes with fewer.
type BalanceConfig struct {
	On      bool `default:"false" help:"Give connections up when this node has more than its share of them. Their clients connect again, to the node that the load balancer chooses; with recovery.on nobody notices. tether rebalance does it once."`
	Percent int  `default:"20" min:"1" max:"1000" help:"How many percent more than the mean of the nodes are too many."`
	Least   int  `default:"50" min:"1" max:"1000000" help:"How many connections more than the mean are too many at least."`
	Pace    int  `default:"20" min:"1" max:"1000" help:"How many connections are given up in a second."`
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
	Level  string   `default:"info" enum:"debug,info,warn,error" reload:"" help:"The least important level that is logged."`
	Parts  []string `placeholder:"PART=LEVEL" reload:"" help:"Levels of single parts, instead of log.level: hub=debug tells of each client that comes and goes. Parts are server, hub, transport and broker."`
	Format string   `default:"text" enum:"text,json" help:"Format of the log."`
}

// DrainConfig is how the server ends after SIGTERM or SIGINT.
type DrainConfig struct {
	Delay   time.Duration `default:"2s" min:"0s" max:"10m" help:"How long /readyz says 503 while everything still works. Meanwhile load balancers go elsewhere."`
	Window  time.Duration `default:"0s" min:"0s" max:"1h" help:"Time after that, over which the clients are disconnected evenly. 0: 10 ms for each client, and at most 10 s."`
	Timeout time.Duration `default:"10s" min:"100ms" max:"10m" help:"How long requests in progress may take after that."`
}

// FlushTime is how long the last spans may take.
const FlushTime = 2 * time.Second

// StopTime is how long a server may take from SIGTERM to its end. What stops it has to wait for longer.
func (c *Config) StopTime() time.Duration {
	const (
		widest = 10 * time.Second // window by default
		grace  = 5 * time.Second  // that the hub gives connections to end
	)
	stop := c.Drain.Delay + cmp.Or(c.Drain.Window, widest) + grace + c.Client.HookTimeout + c.Drain.Timeout + c.Client.WriteTimeout
	if c.Tracing.On {
		stop += FlushTime
	}
	return stop
}
