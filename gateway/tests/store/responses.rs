//! Responses that are kept: by account, turn by turn, for a while.

use std::time::Duration;

use lumbung_gateway::store::{KeptResponse, Turn};
use lumbung_openapi::responses::KeptParts;

use crate::on_both;

const DAY: Duration = Duration::from_secs(86_400);

fn response(id: &str, previous: Option<&str>) -> KeptResponse {
    let parts = KeptParts { response: format!("{{\"id\":\"{id}\"}}"), output: format!("[\"out {id}\"]") };
    KeptResponse { id: id.into(), previous: previous.map(str::to_owned), input: format!("[\"in {id}\"]"), parts }
}

fn turn(id: &str) -> Turn {
    Turn { input: format!("[\"in {id}\"]"), output: format!("[\"out {id}\"]") }
}

on_both! {
    async fn responses_are_kept_for_their_account_until_their_time_has_come(books: &Books) {
        let store = &books.store;
        let (ours, theirs) = (store.create_account("ours").await.expect("one").id, store.create_account("theirs").await.expect("one").id);
        for (id, previous) in [("resp_a", None), ("resp_b", Some("resp_a")), ("resp_c", Some("resp_b"))] {
            store.keep_response(&ours, &response(id, previous), DAY).await.expect("kept");
        }
        let kept = store.response(&ours, "resp_b").await.expect("read").expect("there");
        assert_eq!(kept.put_together(), r#"{"id":"resp_b","output":["out resp_b"]}"#);
        let turns = store.response_turns(&ours, "resp_c").await.expect("read").expect("all there");
        assert_eq!(turns, [turn("resp_a"), turn("resp_b"), turn("resp_c")]);

        for id in ["resp_c", "resp_none", "resp_\0"] {
            assert_eq!(store.response(&theirs, id).await.expect("read"), None, "{id}");
            assert_eq!(store.response_turns(&theirs, id).await.expect("read"), None, "{id}");
            assert!(!store.forget_response(&theirs, id).await.expect("asked"), "{id}");
        }
        // A conversation does not lead into another account's, whatever an id says.
        store.keep_response(&theirs, &response("resp_d", Some("resp_c")), DAY).await.expect("kept");
        assert_eq!(store.response_turns(&theirs, "resp_d").await.expect("read"), None);

        assert!(store.forget_response(&ours, "resp_b").await.expect("forgotten"));
        assert!(!store.forget_response(&ours, "resp_b").await.expect("asked"), "once");
        assert_eq!(store.response(&ours, "resp_b").await.expect("read"), None);
        assert_eq!(store.response_turns(&ours, "resp_c").await.expect("read"), None, "a turn is missing");
        assert_eq!(store.response_turns(&ours, "resp_a").await.expect("read"), Some(vec![turn("resp_a")]));

        store.keep_response(&ours, &response("resp_long", None), 3 * DAY).await.expect("kept");
        assert_eq!(store.forget_responses().await.expect("looked"), 0);
        store.shift_clock(DAY + Duration::from_secs(1));
        assert_eq!(store.response(&ours, "resp_a").await.expect("read"), None, "its time has come");
        assert!(!store.forget_response(&ours, "resp_a").await.expect("asked"));
        assert_eq!(store.forget_responses().await.expect("forgotten"), 3);
        assert!(store.response(&ours, "resp_long").await.expect("read").is_some());
    }
}
