// Command generated URL uses the client that oapi-codegen has made of the hub's document; it is compiled in its place,
// hub.go beside this file, by the test.
package main

import (
	"context"
	"encoding/json"
	"os"

	_ "github.com/oapi-codegen/runtime" // hub.go needs it
)

func must[Value any](value Value, err error) Value {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	background := context.Background()
	client := must(NewClientWithResponses(os.Args[1]))
	event := NewEvent{Data: "from a generated client"}
	published := must(client.PublishWithResponse(background, "p", nil, event))
	receipt := must(published.JSON201.AsReceipt())
	timeout := "3s"
	ready := must(client.ReadyWithResponse(background, "p", &ReadyParams{Timeout: &timeout}))
	job := Trigger{Name: "job", Data: map[string]string{"prompt": "hello"}}
	triggered := must(client.TriggerWithResponse(background, "p", nil, job))
	refused := must(client.PublishWithResponse(background, "!", nil, event))
	err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"connections": receipt.Connections,
		"ready":       ready.JSON200.Ready,
		"dispatched":  triggered.JSON202.Dispatched,
		"refused":     refused.ApplicationproblemJSON400.Code,
	})
	if err != nil {
		panic(err)
	}
}
