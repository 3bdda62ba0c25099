// Placeholder.
package main

import _ "github.com/oapi-codegen/runtime" // what is generated from the hub's document needs it

func main() {}
