package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"google.golang.org/genai"
)

// sdkClasses is what an error is in each JavaScript SDK, by its status. The SDKs
// for Go have one class for all, with the status in it.
var sdkClasses = []struct {
	status                    int
	openAI, anthropic, gemini string
}{
	{400, "BadRequestError", "BadRequestError", "ApiError"},
	{401, "AuthenticationError", "AuthenticationError", "ApiError"},
	{403, "PermissionDeniedError", "PermissionDeniedError", "ApiError"},
	{413, "APIError", "ContentTooLargeError", "ApiError"},
	{429, "RateLimitError", "RateLimitError", "ApiError"},
	{502, "InternalServerError", "InternalServerError", "ApiError"},
	{503, "InternalServerError", "ServiceUnavailableError", "ApiError"},
}

// TestSDKsRaiseTheirOwnErrors checks that with error_format provider each row
// of the table of errors is an error of its own class to each SDK, with the
// gateway's string as the code.
func TestSDKsRaiseTheirOwnErrors(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		c := startContract(t, storage, "error_format provider")
		base := serve(t, http.HandlerFunc(c.serveSituation))
		for sdk, raise := range map[string]func(context.Context, string) (sdkFailure, error){
			"openai": raiseOpenAI, "anthropic": raiseAnthropic, "gemini": raiseGemini,
		} {
			for _, want := range checks {
				if !raises(sdk, want) {
					continue
				}
				t.Run("go/"+sdk+"/"+want.error, func(t *testing.T) {
					got, err := raise(t.Context(), situationURL(base, want))
					if err != nil {
						t.Fatalf("not an error of the SDK's own: %v", err)
					}
					if got.status != want.status || got.code != want.error || !strings.HasPrefix(got.message, want.error) {
						t.Errorf("got %+v, want %d %q", got, want.status, want.error)
					}
				})
			}
		}
		t.Run("on no SDK's route", func(t *testing.T) {
			want := mustFindCheck(t, onNoRoute)
			a, err := c.ask(t.Context(), marked(goodRequests["openai"]), want.situation)
			if err != nil {
				t.Fatal(err)
			}
			a.checkRefused(t, want)
		})
		t.Run("javascript", func(t *testing.T) {
			type row struct {
				URL     string            `json:"url"`
				Status  int               `json:"status"`
				Error   string            `json:"error"`
				Classes map[string]string `json:"classes"`
			}
			var rows []row
			for _, want := range checks {
				rows = append(rows, row{situationURL(base, want), want.status, want.error, classesOf(t, want)})
			}
			runNode(t, "contract", map[string]any{"checks": rows})
		})
	})
}

// onNoRoute is the error of a path that is under no provider's name. Nobody knows
// which SDK it is for, so it has the gateway's own shape.
const onNoRoute = "unknown provider"

// raises tells whether an SDK may get the error. Unified mode is for OpenAI's.
func raises(sdk string, c check) bool {
	return c.error != onNoRoute && (sdk == "openai" || !slices.Contains(unified, c.error))
}

// classesOf are the classes of an error, by SDK.
func classesOf(t *testing.T, want check) map[string]string {
	t.Helper()
	for _, c := range sdkClasses {
		if c.status == want.status {
			classes := map[string]string{"openai": c.openAI, "anthropic": c.anthropic, "gemini": c.gemini}
			maps.DeleteFunc(classes, func(sdk, _ string) bool { return !raises(sdk, want) })
			return classes
		}
	}
	t.Fatalf("no classes for status %d", want.status)
	return nil
}

// situationURL is where SDKs find the gateway in the situation of a check.
func situationURL(base string, c check) string {
	return base + "/" + situationName(c)
}

// situationName is a check's error as a part of a path.
func situationName(c check) string { return strings.NewReplacer(" ", "-", "/", "-").Replace(c.error) }

// serveSituation stands between an SDK and the gateway. It brings the situation
// that the path begins with about, and does to the SDK's request what that
// says: the SDKs send good requests only.
func (c *contract) serveSituation(w http.ResponseWriter, r *http.Request) {
	a, err := c.passOn(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot) // which no SDK takes for one of the table
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the SDK would notice
}

func (c *contract) passOn(r *http.Request) (answer, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, fmt.Errorf("read request: %w", err)
	}
	parts := strings.SplitN(r.URL.RequestURI(), "/", 4) // "", situation, provider, path
	if len(parts) < 4 {
		return answer{}, fmt.Errorf("unexpected path %s", r.URL.Path)
	}
	request := proxyRequest{
		method: r.Method, provider: parts[2], path: "/" + parts[3], model: goodRequests[parts[2]].model,
		header: r.Header, body: string(body),
	}
	for _, row := range checks {
		if situationName(row) == parts[1] {
			return c.ask(r.Context(), marked(request), row.situation)
		}
	}
	return answer{}, fmt.Errorf("unknown situation %s", parts[1])
}

// sdkFailure is what an SDK's typed error says.
type sdkFailure struct {
	status        int
	code, message string
}

func raiseOpenAI(ctx context.Context, url string) (sdkFailure, error) {
	client := openai.NewClient(openaioption.WithBaseURL(url+"/openai/v1/"),
		openaioption.WithAPIKey(anyKey), openaioption.WithMaxRetries(0))
	_, err := client.Chat.Completions.New(ctx, chatParams(goodRequests["openai"].model))
	var typed *openai.Error
	if !errors.As(err, &typed) {
		return sdkFailure{}, fmt.Errorf("%T: %w", err, err)
	}
	return sdkFailure{typed.StatusCode, typed.Code, typed.Message}, nil
}

func raiseAnthropic(ctx context.Context, url string) (sdkFailure, error) {
	client := anthropic.NewClient(anthropicoption.WithBaseURL(url+"/anthropic"),
		anthropicoption.WithAPIKey(anyKey), anthropicoption.WithMaxRetries(0))
	_, err := client.Messages.New(ctx, messageParams(goodRequests["anthropic"].model))
	var typed *anthropic.Error
	if !errors.As(err, &typed) {
		return sdkFailure{}, fmt.Errorf("%T: %w", err, err)
	}
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(typed.RawJSON()), &body); err != nil {
		return sdkFailure{}, fmt.Errorf("decode %s: %w", typed.RawJSON(), err)
	}
	return sdkFailure{typed.StatusCode, body.Error.Code, body.Error.Message}, nil
}

func raiseGemini(ctx context.Context, url string) (sdkFailure, error) {
	client, err := genai.NewClient(ctx, &genai.ClientConfig{
		APIKey: anyKey, Backend: genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: url + "/gemini"},
	})
	if err != nil {
		return sdkFailure{}, fmt.Errorf("create client: %w", err)
	}
	_, err = client.Models.GenerateContent(ctx, goodRequests["gemini"].model, genai.Text("hello"), nil)
	var typed genai.APIError
	if !errors.As(err, &typed) {
		return sdkFailure{}, fmt.Errorf("%T: %w", err, err)
	}
	if len(typed.Details) != 1 {
		return sdkFailure{}, fmt.Errorf("details %v", typed.Details)
	}
	code, _ := typed.Details[0]["reason"].(string)
	return sdkFailure{typed.Code, code, typed.Message}, nil
}
