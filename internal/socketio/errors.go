package socketio

// Error is what a client did wrong. Its text is fixed: nothing of the input is in it.
type Error string

func (e Error) Error() string { return "socketio: " + string(e) }

// The errors of this package.
const (
	ErrEmpty              Error = "empty packet"
	ErrUTF8               Error = "text is not valid UTF-8"
	ErrType               Error = "unknown packet type"
	ErrAttachments        Error = "malformed number of attachments"
	ErrTooManyAttachments Error = "too many attachments"
	ErrNamespace          Error = "malformed or too long namespace"
	ErrID                 Error = "acknowledgement ID missing or out of place"
	ErrPayload            Error = "payload does not fit the packet type"
	ErrJSON               Error = "payload is not valid JSON"
	ErrDepth              Error = "payload is nested too deeply"
	ErrArgs               Error = "too many arguments"
	ErrEventName          Error = "event name is neither string nor number, or too long"
	ErrReserved           Error = "event name is reserved"
	ErrPlaceholder        Error = "malformed, repeated or out of range placeholder"
	ErrBase64             Error = "binary packet is not valid base64"
)
