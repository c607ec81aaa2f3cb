package metering_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// catalogueBook is the built-in price list.
func catalogueBook(t *testing.T) *metering.Book {
	t.Helper()
	rules, err := metering.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	book, err := metering.NewBook(rules)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

func TestNoTraceCostsMoreThanItsWorstCase(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/traces/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var traces map[string]struct {
		trace
		Request json.RawMessage
	}
	if err := json.Unmarshal(text, &traces); err != nil {
		t.Fatal(err)
	}
	book, at, priced := catalogueBook(t), time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), 0
	for name, tr := range traces {
		endpoint := tr.classify(t)
		reading := meter(t, endpoint, tr.ContentType, bytes.NewReader(readTrace(t, name)))
		var request struct{ Model string }
		if err := json.Unmarshal(tr.Request, &request); err != nil {
			t.Fatal(err)
		}
		rule, ok := book.Find(tr.Provider, request.Model, at)
		if !ok || !reading.Found {
			continue
		}
		cost, err := book.Price(book.ForResponse(rule, tr.Provider, reading.Model, at), reading, at, 0)
		if err != nil {
			t.Fatal(err)
		}
		total := reading.Total()
		bound := metering.PromptBound(metering.Protocol(tr.Provider), tr.Request)
		bound.Prompt = total.Prompt() // the recordings have no prompts
		if total.WebSearches > 0 {
			bound.Rounds = metering.ToolRounds // nor tools
		}
		priced++
		if worst := rule.WorstCase(bound, total.Completion(), at, 0); worst < cost.Market {
			t.Errorf("%s costs %s, its worst case is %s with %+v", name, cost.Market, worst, bound)
		}
	}
	if priced < 25 {
		t.Errorf("only %d traces have a price", priced)
	}
}

func TestWorstCase(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rule := &metering.Rule{
		Rates: metering.Rates{
			Input: 2, CacheRead: 1, CacheWrite: 3, CacheWriteLong: 4, InputImage: 2, Output: 10, OutputAudio: 20,
			WebSearch: 10_000 * 1_000_000,
		},
		LongAbove: 1_000_000, LongRates: metering.Rates{Input: 8, Output: 10},
		Multipliers: []metering.Multiplier{
			{Dimension: metering.Tier, Value: "flex", PerMille: 500},
			{Dimension: metering.Tier, Value: "priority", PerMille: 2000},
			{Dimension: metering.Tier, Value: "ultrafast", PerMille: 6000},
			{Dimension: metering.Tier, Value: "ended", PerMille: 9000, Until: at},
			{Dimension: metering.Region, Value: "us", PerMille: 1100},
		},
	}
	const million = 1_000_000
	standard := metering.Bound{Rounds: 1, Tier: "default", Speed: "standard", Region: "global"}
	with := func(change func(*metering.Bound)) metering.Bound {
		b := standard
		change(&b)
		return b
	}
	for name, x := range map[string]struct {
		bound  metering.Bound
		output int64
		want   metering.Money
	}{
		"nothing":               {standard, 0, 0},
		"prompt into the cache": {with(func(b *metering.Bound) { b.Prompt = million }), 0, 4},
		"long prompt":           {with(func(b *metering.Bound) { b.Prompt = million + 500_000 }), 0, 12},
		"output in speech":      {standard, million, 20},
		"cheaper tier":          {with(func(b *metering.Bound) { b.Tier = "flex" }), million, 20},
		"dearer tier":           {with(func(b *metering.Bound) { b.Tier = "Priority" }), million, 40},
		"any tier":              {with(func(b *metering.Bound) { b.Tier = "" }), million, 120},
		"automatic tier":        {with(func(b *metering.Bound) { b.Tier = "auto" }), million, 120},
		"unknown tier":          {with(func(b *metering.Bound) { b.Tier = "turbo" }), million, 120},
		"standard tier only":    {with(func(b *metering.Bound) { b.Tier = "standard_only" }), million, 20},
		"any tier and region":   {with(func(b *metering.Bound) { b.Tier, b.Region = "", "" }), million, 132},
		"prediction":            {with(func(b *metering.Bound) { b.Predicted = million }), million, 40},
		"rounds with a search":  {with(func(b *metering.Bound) { b.Prompt, b.Rounds = million, 3 }), million, 3*(4+20) + 30_000},
		"beyond all amounts":    {with(func(b *metering.Bound) { b.Prompt, b.Rounds = math.MaxInt64, math.MaxInt64 }), 0, math.MaxInt64},
	} {
		if got := rule.WorstCase(x.bound, x.output, at, 0); got != x.want {
			t.Errorf("%s: %d, want %d", name, got, x.want)
		}
	}
	half, err := metering.ParseDiscount("50%")
	if err != nil {
		t.Fatal(err)
	}
	if got := rule.WorstCase(standard, million, at, half); got != 10 {
		t.Errorf("with a discount: %d, want 10", got)
	}
}

func TestPromptBound(t *testing.T) {
	t.Parallel()
	const (
		text = iota
		window
		hosted
		predicted
		predictedParts
		predictedFile
	)
	for name, x := range map[string]struct {
		protocol metering.Protocol
		body     string
		want     int
	}{
		"no body":       {metering.OpenAI, ``, text},
		"not an object": {metering.OpenAI, `[1]`, text},
		"chat": {metering.OpenAI, `{"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]},
			{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"file\":1}"}}]},
			{"role":"tool","tool_call_id":"c","content":"image_url"}],"tools":[{"type":"function","function":{"name":"f",
			"parameters":{"type":"object","properties":{"file":{"type":"string"}}}}}],"response_format":{"type":"json_object"},"audio":null}`, text},
		"embeddings":           {metering.OpenAI, `{"input":["a",[1,2]]}`, text},
		"completion":           {metering.OpenAI, `{"prompt":["a","b"]}`, text},
		"image":                {metering.OpenAI, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]}`, window},
		"image without a type": {metering.OpenAI, `{"messages":[{"role":"user","content":[{"image_url":"https://x"}]}]}`, window},
		"image, escaped":       {metering.OpenAI, `{"messages":[{"role":"user","content":[{"image\u005furl":"https://x"}]}]}`, window},
		"two types":            {metering.OpenAI, `{"messages":[{"content":[{"type":"text","type":"file"}]}]}`, window},
		"type of another case": {metering.OpenAI, `{"Messages":[{"Content":[{"Type":"input_image"}]}]}`, window},
		"deep":                 {metering.OpenAI, `{"messages":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, window},
		"earlier audio":        {metering.OpenAI, `{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`, window},
		"earlier response":     {metering.OpenAI, `{"input":"a","previous_response_id":"resp_1"}`, window},
		"no earlier response":  {metering.OpenAI, `{"input":"a","previous_response_id":null}`, text},
		"conversation":         {metering.OpenAI, `{"input":"a","conversation":"conv_1"}`, window},
		"stored prompt":        {metering.OpenAI, `{"prompt":{"id":"p"}}`, window},
		"reference":            {metering.OpenAI, `{"input":[{"type":"item_reference","id":"msg_1"}]}`, window},
		"reference by id":      {metering.OpenAI, `{"input":[{"id":"msg_1"}]}`, window},
		"responses": {metering.OpenAI, `{"input":[{"role":"user","content":"a"},{"type":"message","role":"user","content":[{"type":"input_text","text":"a"}]},
			{"type":"reasoning","summary":[],"encrypted_content":"x"},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
			{"type":"function_call_output","call_id":"c","output":"x"}],"text":{"format":{"type":"json_schema","schema":{}}}}`, text},
		"prediction":             {metering.OpenAI, `{"messages":[],"prediction":{"type":"content","content":"x"}}`, predicted},
		"prediction in parts":    {metering.OpenAI, `{"prediction":{"type":"content","content":[{"type":"text","text":""}]},"prediction":{"type":"content","content":"x"},"n":1}`, predictedParts},
		"no prediction":          {metering.OpenAI, `{"messages":[],"prediction":null}`, text},
		"hosted search":          {metering.OpenAI, `{"input":"a","tools":[{"type":"function","name":"f"},{"type":"web_search"}]}`, hosted},
		"tool of two types":      {metering.OpenAI, `{"input":"a","tools":[{"type":"function","type":"web_search"}]}`, hosted},
		"search options":         {metering.OpenAI, `{"messages":[],"web_search_options":{}}`, hosted},
		"compaction":             {metering.OpenAI, `{"input":"a","context_management":[{"type":"compaction"}]}`, hosted},
		"messages":               {metering.Anthropic, `{"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h"}}],"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"b"},{"type":"tool_use","id":"t","name":"n","input":{"type":"image","source":{"file":"x"}}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"a"}]}]}],"tools":[{"name":"n","input_schema":{"type":"object"}}],"thinking":{"type":"enabled"}}`, text},
		"document":               {metering.Anthropic, `{"messages":[{"content":[{"type":"document","source":{"type":"base64","data":"x"}}]}]}`, window},
		"image of a tool":        {metering.Anthropic, `{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":{}}]}]}]}`, window},
		"client's shell":         {metering.Anthropic, `{"messages":[],"tools":[{"type":"bash_20250124","name":"bash"}]}`, text},
		"provider's search":      {metering.Anthropic, `{"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`, hosted},
		"connected servers":      {metering.Anthropic, `{"messages":[],"mcp_servers":[{"type":"url"}]}`, hosted},
		"clearing":               {metering.Anthropic, `{"messages":[],"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}`, text},
		"summing up":             {metering.Anthropic, `{"messages":[],"context_management":{"edits":[{"type":"compact_20260112"}]}}`, hosted},
		"prediction with a file": {metering.OpenAI, `{"messages":[],"prediction":{"type":"file","content":"x"}}`, predictedFile},
		"contents":               {metering.Gemini, `{"contents":[{"role":"user","parts":[{"text":"a"},{"functionCall":{"name":"f","args":{"file":"x"}}},{"functionResponse":{"name":"f","response":{"image":"x"}}}]}],"tools":[{"functionDeclarations":[{"name":"f"}]}],"generationConfig":{"responseSchema":{"type":"OBJECT"}}}`, text},
		"inline data":            {metering.Gemini, `{"contents":[{"parts":[{"inlineData":{"data":"x"}}]}]}`, window},
		"inline data, spelled":   {metering.Gemini, `{"contents":[{"parts":[{"inline_data":{"data":"x"}}]}]}`, window},
		"cached content":         {metering.Gemini, `{"contents":[],"cachedContent":"c"}`, window},
		"google's search":        {metering.Gemini, `{"contents":[],"tools":[{"functionDeclarations":[],"googleSearch":{}}]}`, hosted},
		"tools as one":           {metering.Gemini, `{"contents":[],"tools":{"googleSearch":{}}}`, hosted},
		"cached, for the other":  {metering.Gemini, `{"messages":[],"extra_body":{"google":{"cached_content":"c"}}}`, window},
	} {
		got := metering.PromptBound(x.protocol, []byte(x.body))
		want := metering.Bound{Prompt: int64(len(x.body)) + 2048, Rounds: 1, Tier: got.Tier, Speed: got.Speed}
		switch x.want {
		case window:
			want.Prompt = metering.MaxPrompt
		case hosted:
			want.Prompt, want.Rounds = metering.MaxPrompt, metering.ToolRounds
		case predicted:
			want.Predicted = int64(len(`{"type":"content","content":"x"}`))
		case predictedParts: // the longer one of two
			want.Predicted = int64(len(`{"type":"content","content":[{"type":"text","text":""}]}`))
		case predictedFile:
			want.Prompt, want.Predicted = metering.MaxPrompt, metering.MaxPrompt
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPromptBoundNamesWhatTheRequestNames(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		protocol            metering.Protocol
		body                string
		tier, speed, region string
	}{
		{metering.OpenAI, `{}`, "", "standard", ""},
		{metering.OpenAI, `{"service_tier":null}`, "", "standard", ""},
		{metering.OpenAI, `{"service_tier":"flex"}`, "flex", "standard", ""},
		{metering.OpenAI, `{"service_tier":"flex","service_tier":"priority"}`, "", "standard", ""},
		{metering.OpenAI, `{"service_tier":1}`, "", "standard", ""},
		{metering.Anthropic, `{"speed":"fast","inference_geo":"us"}`, "standard", "fast", "us"},
		{metering.Gemini, `{"serviceTier":"priority"}`, "priority", "standard", ""},
	} {
		b := metering.PromptBound(x.protocol, []byte(x.body))
		got, want := [3]string{b.Tier, b.Speed, b.Region}, [3]string{x.tier, x.speed, x.region}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", x.protocol, x.body, diff)
		}
	}
}
