package socketio

// MaxDepth is the deepest nesting that any limit allows.
const MaxDepth = 512

// Limits bounds what a client may send in one packet. A field that is zero or negative has its default.
type Limits struct {
	Depth       int // arrays and objects inside one another, the argument array included. Default and maximum 512.
	Attachments int // binary attachments of one packet. Default 10, the reference's.
	Args        int // elements of the argument array, the event's name included. Default 1024.
	EventName   int // bytes of an event's name as it stands in the packet, quotes included. Default 1024.
	Namespace   int // bytes of a namespace, its "/" included. Default 256.
}

func (l Limits) withDefaults() Limits {
	if l.Depth <= 0 || l.Depth > MaxDepth {
		l.Depth = MaxDepth
	}
	if l.Attachments <= 0 {
		l.Attachments = 10
	}
	if l.Args <= 0 {
		l.Args = 1024
	}
	if l.EventName <= 0 {
		l.EventName = 1024
	}
	if l.Namespace <= 0 {
		l.Namespace = 256
	}
	return l
}
