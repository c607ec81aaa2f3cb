package billing

// Schema tells how far the tables of a database are.
type Schema struct {
	// Version is the database's; 0 if it has no tables yet.
	Version int64
	// Known is the newest version that this program knows.
	Known int64
}
