package hub

// Reason says why a socket ended, in the words of Socket.IO.
type Reason string

// The reasons that Socket.IO names for the server side.
const (
	ReasonClientDisconnect Reason = "client namespace disconnect" // the client sent DISCONNECT
	ReasonServerDisconnect Reason = "server namespace disconnect" // Socket.Disconnect, a kick, an expired token
	ReasonTransportClose   Reason = "transport close"             // the client or the network closed the connection
	ReasonTransportError   Reason = "transport error"             // the connection failed, or a limit of the transport was passed
	ReasonPingTimeout      Reason = "ping timeout"                // the client did not answer a ping in time
	ReasonParseError       Reason = "parse error"                 // the client sent what the protocol does not allow
	ReasonForcedClose      Reason = "forced close"                // CONNECT did not come in time
	ReasonServerClose      Reason = "forced server close"         // the server closed the connection, a slow consumer say
	ReasonShutdown         Reason = "server shutting down"        // the hub drains
)
