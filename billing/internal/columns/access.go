package columns

import "github.com/caddy-llm-gateway/gateway/billing"

// OperatorToken are the columns of operator_tokens.
const OperatorToken = `id, name, hash, prefix, created_by, created_at, expires_at, revoked_at, last_used_at`

// ScanOperatorToken scans OperatorToken.
func ScanOperatorToken(row Row) (billing.OperatorToken, error) {
	var t billing.OperatorToken
	err := row.Scan(&t.ID, &t.Name, Hash{&t.Hash}, &t.Prefix, &t.CreatedBy,
		Time{&t.CreatedAt}, Time{&t.ExpiresAt}, Time{&t.RevokedAt}, Time{&t.LastUsedAt})
	return t, err
}

// Session are the columns of sessions.
const Session = `id, hash, previous_hash, previous_until, issuer, subject, email, name, csrf_token,
	created_at, rotated_at, last_seen_at, expires_at`

// ScanSession scans Session.
func ScanSession(row Row) (billing.Session, error) {
	var (
		v        billing.Session
		previous []byte
	)
	err := row.Scan(&v.ID, Hash{&v.Hash}, &previous, Time{&v.PreviousUntil},
		&v.Identity.Issuer, &v.Identity.Subject, &v.Identity.Email, &v.Identity.Name, &v.CSRFToken,
		Time{&v.CreatedAt}, Time{&v.RotatedAt}, Time{&v.LastSeenAt}, Time{&v.ExpiresAt})
	copy(v.PreviousHash[:], previous)
	return v, err
}

// PreviousHash stores the hash of a session that was not rotated as NULL.
func PreviousHash(v billing.Session) any {
	if v.PreviousUntil.IsZero() {
		return nil
	}
	return v.PreviousHash[:]
}

// Login are the columns of logins.
const Login = `state, browser, nonce, verifier, return_to, expires_at`

// ScanLogin scans Login.
func ScanLogin(row Row) (billing.Login, error) {
	var l billing.Login
	err := row.Scan(Hash{&l.State}, Hash{&l.Browser}, &l.Nonce, &l.Verifier, &l.ReturnTo, Time{&l.ExpiresAt})
	return l, err
}
