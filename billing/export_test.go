package billing

// Leased tells what a node believes to have leased.
func (a *Authorizer) Leased() map[Allowance]Money {
	a.mu.Lock()
	defer a.mu.Unlock()
	leased := make(map[Allowance]Money)
	for id, l := range a.leases {
		if l.leased != 0 {
			leased[id] = l.leased
		}
	}
	return leased
}

// StoreTimeout bounds how long a request waits for the store.
const StoreTimeout = storeTimeout

// Late is why a claim is refused that the store was too slow for.
func (a *Authorizer) Late(claim Claim) error { return a.late(claim) }
