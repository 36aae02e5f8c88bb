package presence

// Rooms is of how many rooms this node knows something.
func (p *Presence) Rooms() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stays) + len(p.watched)
}
