package presence

// Rooms is of how many rooms this node knows something.
func (p *Presence) Rooms() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stays) + len(p.watched)
}

// Outdate has it seem as if the list of members had changed since this node looked at it.
func (p *Presence) Outdate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standing.Changes--
}

// Topics of questions.
const (
	TopicOnline = topicOnline
	TopicRooms  = topicRooms
)
