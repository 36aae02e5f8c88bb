package main

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"tether/broker"
	"tether/examples/internal/exampletest"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

func setup(b broker.Broker) (*hub.Hub, error) { return newHub(b, hub.Options{}) }

// enter connects a client that talks under a name, and has it join a room.
func enter(node *hubtest.Node, room, name string) *hubtest.Client {
	c := node.Connect(nil)
	c.Call("join", joinRequest{Room: room, Name: name}).Expect(joinAnswer{Rooms: []string{room}})
	c.Expect("came", line{Room: room, Name: name})
	return c
}

func TestWhatIsSaidReachesWhoIsInTheRoomOnWhicheverNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		a, b := cluster.Node(setup), cluster.Node(setup)
		ann, ben, cat := enter(a, "tea", "Ann"), enter(b, "tea", "Ben"), enter(b, "milk", "Cat")
		ann.Expect("came", line{Room: "tea", Name: "Ben"})

		cat.Emit("say", line{Room: "tea", Text: "not heard: Cat is not there"})
		cat.Emit("say", line{Room: "milk", Name: "Ann", Text: "purr"})
		cat.Expect("said", line{Room: "milk", Name: "Cat", Text: "purr"})

		ann.Emit("say", line{Room: "tea", Text: "hello"})
		ann.Expect("said", line{Room: "tea", Name: "Ann", Text: "hello"})
		ben.Expect("said", line{Room: "tea", Name: "Ann", Text: "hello"})

		ann.Disconnect()
		ben.Expect("left", line{Room: "tea", Name: "Ann"})
		for _, event := range []string{"said", "came", "left"} {
			ben.Refute(event)
			cat.Refute(event)
		}
	})
}

func TestARoomIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, setup)
		ann, ben := enter(node, "tea", "Ann"), enter(node, "tea", "Ben")
		ben.Emit("leave", "tea")
		ann.Expect("left", line{Room: "tea", Name: "Ben"})
		ann.Emit("say", line{Room: "tea", Text: "gone?"})
		ben.Refute("said")
	})
}

// await waits until a client has been told, after the whole or not, that something has changed.
func await(t *testing.T, c *hubtest.Client, what string, is func(presence.RoomChange) bool) {
	t.Helper()
	for {
		var change presence.RoomChange
		c.Expect("presence", &change)
		if is(change) {
			return
		}
		t.Logf("before %s came %+v", what, change)
	}
}

func TestFriendsSeeWhoIsThereAndWhoIsTyping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		a, b := cluster.Node(setup), cluster.Node(setup)
		ann, ben := enter(a, "tea", "Ann"), enter(b, "tea", "Ben")
		came := func(name, data string) func(presence.RoomChange) bool {
			return func(c presence.RoomChange) bool {
				return slices.ContainsFunc(c.Came, func(m presence.RoomMember) bool { return m.Name == name && string(m.Data) == data })
			}
		}
		await(t, ann, "Ben is there", came("Ben", `{}`))
		await(t, ben, "Ann is there", came("Ann", `{}`))

		ann.Emit("typing", typing{Room: "milk", Typing: true}) // she is not there
		ann.Emit("typing", typing{Room: "tea", Typing: true})
		await(t, ben, "Ann is typing", came("Ann", `{"typing":true}`))
		ann.Emit("typing", typing{Room: "tea"})
		await(t, ben, "Ann is not typing", came("Ann", `{}`))

		ann.Close()
		await(t, ben, "Ann has gone", func(c presence.RoomChange) bool { return slices.Equal(c.Left, []string{"Ann"}) })
	})
}

func TestARoomAndANameAreNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.Start(t, setup).Connect(nil)
		c.Call("join", joinRequest{Name: "Ann"}).ExpectRefusal("a room and a name, of 64 bytes at most")
		c.Call("join", map[string]string{"room": "tea"}).ExpectRefusal(`arguments do not fit: "name" is missing`)
		c.RefuteAny()
	})
}

func TestAClientCannotJoinAUsersRoom(t *testing.T) {
	if hub.Room("user:42") == hub.User("42") {
		t.Error("a room's name makes it a user's")
	}
}

func TestTheProgramServesItsPageAndItsRooms(t *testing.T) {
	printed, _ := exampletest.Start(t, run, "-addr", "127.0.0.1:0")
	url := strings.TrimSpace(strings.TrimPrefix(printed, "listening on "))
	if status, body := exampletest.Get(t, url); status != 200 || !strings.Contains(body, "<h1>Chat</h1>") {
		t.Errorf("%d %s", status, body)
	}
	ann := exampletest.Connect(t, url, "")
	ann.Want(`40{"sid":"…`)
	ann.Send(`421["join",{"room":"tea","name":"Ann"}]`)
	wants := []string{`42["came",{"room":"tea","name":"Ann"}]`, `431[{"rooms":["tea"]}]`, `42["presence",{"room":"tea",`} // the last comes when it comes
	for len(wants) > 0 {
		got := ann.Next()
		at := slices.IndexFunc(wants, func(want string) bool { return strings.HasPrefix(got, want) })
		if at < 0 && !strings.HasPrefix(got, `42["presence",`) {
			t.Fatalf("got packet %s, want one of %q", got, wants)
		}
		if at >= 0 {
			wants = slices.Delete(wants, at, at+1)
		}
	}
}
