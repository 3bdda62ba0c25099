// Command read CLIENT URL [CLIENT URL]... reads each stream with that client, as its documentation shows, and writes what it
// gives as JSON lines with its place among them as "reader": {"open": true}, {"type", "id", "data"}, {"error"} (and it goes
// on), {"over"} (it has stopped for good).
package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	launchdarkly "github.com/launchdarkly/eventsource"
	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
	"gopkg.in/cenkalti/backoff.v1"
)

type seen map[string]any

var clients = map[string]func(request *http.Request, tell func(seen)) error{
	"go-sse": func(request *http.Request, tell func(seen)) error {
		client := tmaxmax.Client{OnRetry: func(err error, _ time.Duration) { tell(seen{"error": err.Error()}) }}
		connection := client.NewConnection(request)
		connection.SubscribeToAll(func(event tmaxmax.Event) { tell(anEvent(event.Type, event.LastEventID, event.Data)) })
		return connection.Connect()
	},

	"launchdarkly": func(request *http.Request, tell func(seen)) error {
		stream, err := launchdarkly.SubscribeWithRequestAndOptions(request,
			launchdarkly.StreamOptionInitialRetry(200*time.Millisecond),
			launchdarkly.StreamOptionErrorHandler(func(err error) launchdarkly.StreamErrorHandlerResult {
				tell(seen{"error": err.Error()})
				return launchdarkly.StreamErrorHandlerResult{}
			}))
		if err != nil {
			return err
		}
		for event := range stream.Events {
			tell(anEvent(event.Event(), event.Id(), event.Data()))
		}
		return io.EOF
	},

	"r3labs": func(request *http.Request, tell func(seen)) error {
		client := r3labs.NewClient(request.URL.String())
		client.ReconnectStrategy = backoff.NewConstantBackOff(200 * time.Millisecond)
		client.ReconnectNotify = func(err error, _ time.Duration) { tell(seen{"error": err.Error()}) }
		for { // an orderly end is the end for it: it is called again, and still knows its last id
			err := client.SubscribeRaw(func(event *r3labs.Event) {
				tell(anEvent(string(event.Event), string(event.ID), string(event.Data)))
			})
			if err != nil {
				return err
			}
			tell(seen{"error": "ended"})
			time.Sleep(200 * time.Millisecond)
		}
	},
}

func anEvent(kind, id, data string) seen {
	if kind == "" {
		kind = "message"
	}
	return seen{"type": kind, "id": id, "data": data}
}

func main() {
	var writing sync.Mutex
	output := json.NewEncoder(os.Stdout)
	for at := 1; at < len(os.Args); at += 2 {
		tell := func(one seen) {
			writing.Lock()
			defer writing.Unlock()
			one["reader"] = at / 2
			if err := output.Encode(one); err != nil {
				os.Exit(1)
			}
		}
		read := clients[os.Args[at]]
		request, err := http.NewRequest(http.MethodGet, os.Args[at+1], nil)
		if err != nil {
			panic(err)
		}
		go func() {
			text := "ended"
			if err := read(request, tell); err != nil {
				text = err.Error()
			}
			tell(seen{"over": text})
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has gone
}
