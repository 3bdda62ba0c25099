// A hub out of r3labs/sse, as its README has it: a stream for each project, published to by POST. `r3labs PORT`.
package main

import (
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/r3labs/sse/v2"
)

func main() {
	server := sse.New()
	server.AutoStream = true
	server.AutoReplay = false
	http.HandleFunc("/sub/", func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawQuery = "stream=" + strings.TrimPrefix(r.URL.Path, "/sub/")
		server.ServeHTTP(w, r)
	})
	http.HandleFunc("/pub/", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		server.Publish(strings.TrimPrefix(r.URL.Path, "/pub/"), &sse.Event{Data: data})
		w.WriteHeader(http.StatusAccepted)
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		panic(err)
	}
}
