package metering

import "github.com/tidwall/gjson"

// SetModel returns the request body with another model, and every other byte
// as it was. The body is one that ReadRequest has accepted and that names a
// model; it is not changed itself.
func SetModel(body []byte, model string) []byte {
	var values [1]gjson.Result
	if pick(view(body), modelKeys, values[:]) != nil || !values[0].Exists() {
		return body
	}
	return replace(body, values[0], string(gjson.AppendJSONString(nil, model)))
}
