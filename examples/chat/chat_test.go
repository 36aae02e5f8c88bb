package main

import (
	"strings"
	"testing"

	"tether/examples/internal/exampletest"
	"tether/hub"
)

func start(t *testing.T) string {
	t.Helper()
	printed, _ := exampletest.Start(t, run, "-addr", "127.0.0.1:0")
	return strings.TrimSpace(strings.TrimPrefix(printed, "listening on "))
}

func TestWhatIsSaidReachesWhoIsInTheRoom(t *testing.T) {
	url := start(t)
	ann, ben, cat := exampletest.Connect(t, url, ""), exampletest.Connect(t, url, ""), exampletest.Connect(t, url, "")
	for _, c := range []*exampletest.Client{ann, ben, cat} {
		c.Want(`40{"sid":"…`)
	}
	ann.Send(`421["join",{"room":"tea","name":"Ann"}]`)
	ann.Want(`42["came",{"room":"tea","name":"Ann"}]`, `431[{"rooms":["tea"]}]`)
	ben.Send(`421["join",{"room":"tea","name":"Ben"}]`)
	ben.Want(`42["came",{"room":"tea","name":"Ben"}]`, `431[{"rooms":["tea"]}]`)
	cat.Send(`421["join",{"room":"milk","name":"Cat"}]`)
	cat.Want(`42["came",{"room":"milk","name":"Cat"}]`, `431[{"rooms":["milk"]}]`)

	cat.Emit("say", line{Room: "tea", Text: "not heard: Cat is not there"})
	cat.Emit("say", line{Room: "milk", Name: "Ann", Text: "purr"})
	cat.Want(`42["said",{"room":"milk","name":"Cat","text":"purr"}]`)

	ann.Emit("say", line{Room: "tea", Text: "hello"})
	ann.Want(`42["came",{"room":"tea","name":"Ben"}]`, `42["said",{"room":"tea","name":"Ann","text":"hello"}]`)
	ben.Want(`42["said",{"room":"tea","name":"Ann","text":"hello"}]`)

	ann.Send("41")
	ben.Want(`42["left",{"room":"tea","name":"Ann"}]`)
}

func TestARoomIsLeft(t *testing.T) {
	url := start(t)
	ann, ben := exampletest.Connect(t, url, ""), exampletest.Connect(t, url, "")
	ann.Want(`40{"sid":"…`)
	ben.Want(`40{"sid":"…`)
	ann.Send(`421["join",{"room":"tea","name":"Ann"}]`)
	ann.Want(`42["came",…`, `431[{"rooms":["tea"]}]`)
	ben.Send(`421["join",{"room":"tea","name":"Ben"}]`)
	ben.Want(`42["came",…`, `431[{"rooms":["tea"]}]`)
	ben.Emit("leave", "tea")
	ann.Want(`42["came",{"room":"tea","name":"Ben"}]`, `42["left",{"room":"tea","name":"Ben"}]`)
}

func TestARoomAndANameAreNeeded(t *testing.T) {
	c := exampletest.Connect(t, start(t), "")
	c.Want(`40{"sid":"…`)
	c.Send(`425["join",{"room":"","name":"Ann"}]`)
	c.Want(`435[null,{"message":"a room and a name, of 64 bytes at most"}]`)
}

func TestAClientCannotJoinAUsersRoom(t *testing.T) {
	if hub.Room("user:42") == hub.User("42") {
		t.Error("a room's name makes it a user's")
	}
}

func TestThePageIsServed(t *testing.T) {
	if status, body := exampletest.Get(t, start(t)); status != 200 || !strings.Contains(body, "<h1>Chat</h1>") {
		t.Errorf("%d %s", status, body)
	}
}
