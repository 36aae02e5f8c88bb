package revoke

// Held is how many sockets l knows.
func (l *List) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sockets)
}
