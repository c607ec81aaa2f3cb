package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"google.golang.org/genai"
)

// refusal is how the gateway must refuse a call.
type refusal struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// refusals by the kind of key that is used.
var refusals = map[string]refusal{
	"wrong key":   {http.StatusUnauthorized, "invalid proxy key"},
	"revoked key": {http.StatusForbidden, "key_revoked"},
	"no credits":  {http.StatusForbidden, "insufficient_credits"},
}

// TestSDKsShowRefusals checks that the gateway's own errors, in its own shape,
// reach developers with the gateway's words, and cost nothing. The organization
// has no credits. TestSDKsRaiseTheirOwnErrors has the errors in the SDKs' shapes.
func TestSDKsShowRefusals(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		w := newWorld(t, storage, "")
		w.checkRefusals(t)
	})
}

func (w *world) checkRefusals(t *testing.T) {
	t.Helper()
	keys := w.refusedKeys(t)
	for sdk, call := range map[string]func(context.Context, string) (sdkError, error){
		"openai": w.callOpenAI, "anthropic": w.callAnthropic, "gemini": w.callGemini,
	} {
		for name, want := range refusals {
			t.Run("go/"+sdk+"/"+name, func(t *testing.T) {
				got, err := call(t.Context(), keys[name])
				if err != nil {
					t.Fatalf("error is %T, want the SDK's own: %v", err, err)
				}
				if got.status != want.Status || !strings.Contains(got.text, want.Message) {
					t.Errorf("got %d %q, want %d %q", got.status, got.text, want.Status, want.Message)
				}
				w.checkNotCharged(t, got.requestID)
			})
		}
	}
	w.runJavaScript(t, keys, "refusals")
	if served := w.sandbox.Totals().Requests; served != 0 {
		t.Errorf("%d refused requests reached the provider", served)
	}
}

// refusedKeys are keys that the gateway refuses, by the names in refusals.
func (w *world) refusedKeys(t *testing.T) map[string]string {
	t.Helper()
	revoked := w.createKey(t, "revoked", nil)
	w.must(t, http.MethodPost, "/v1/keys/"+revoked.ID+"/revoke", nil, nil)
	return map[string]string{
		"wrong key":   "sk-proxy-" + strings.Repeat("0", 64),
		"revoked key": revoked.Key,
		"no credits":  w.key.Key,
	}
}

// sdkError is what an SDK's error says.
type sdkError struct {
	status    int
	text      string
	requestID string
}

// callOpenAI reads the answer beside the error of OpenAI's SDK for Go, which
// makes typed errors of its provider's shape only, and complains about others.
func (w *world) callOpenAI(ctx context.Context, key string) (sdkError, error) {
	client, ids := w.openAI(key)
	_, err := client.Chat.Completions.New(ctx, chatParams("gpt-4o"))
	if err == nil {
		return sdkError{}, errors.New("the call succeeded")
	}
	status, text := ids.refusal()
	return sdkError{status, text, ids.take()}, nil
}

func (w *world) callAnthropic(ctx context.Context, key string) (sdkError, error) {
	client, ids := w.anthropicSDK(key)
	_, err := client.Messages.New(ctx, messageParams("claude-haiku-4-5"))
	var typed *anthropic.Error
	if !errors.As(err, &typed) {
		return sdkError{}, err
	}
	return sdkError{typed.StatusCode, typed.Error(), ids.take()}, nil
}

func (w *world) callGemini(ctx context.Context, key string) (sdkError, error) {
	client, ids, err := w.geminiSDK(ctx, key)
	if err != nil {
		return sdkError{}, err
	}
	_, err = client.Models.GenerateContent(ctx, "gemini-2.5-flash", genai.Text("hello"), nil)
	var typed genai.APIError
	if !errors.As(err, &typed) {
		return sdkError{}, err
	}
	return sdkError{typed.Code, typed.Message, ids.take()}, nil
}
