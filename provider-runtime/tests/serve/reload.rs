//! Settings that a running provider reads again: models come and go, and neither a tunnel nor a job is lost.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use lumbung_openapi::frame::FrameKind;
use lumbung_openapi::ticket::Ticket;

use super::support::eventually;
use super::support::gateway::TestGateway;
use super::support::provider::{Provider, scripted, text, told};
use super::support::tunnel::{Tunnel, sign, usd, with};
use super::{SCRIPT, of_kind, request, streamed};

/// A provider of `test/model`, and of what its file names beside it.
struct Owner {
    folder: tempfile::TempDir,
    gateway: TestGateway,
    provider: Provider,
    tunnel: Tunnel,
}

impl Owner {
    async fn with(tables: &[&str]) -> Self {
        let (folder, gateway) = (tempfile::tempdir().unwrap(), TestGateway::start().await);
        let file = folder.path().join("provider.toml");
        fs::write(folder.path().join("one.json"), SCRIPT).unwrap();
        fs::write(folder.path().join("other.json"), SCRIPT.replace("sha256:abc", "sha256:def")).unwrap();
        fs::write(&file, tables.concat().replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let provider = scripted(&gateway.url(), SCRIPT).with("--config", file.to_str().unwrap()).start();
        let tunnel = gateway.tunnel().await;
        Self { folder, gateway, provider, tunnel }
    }

    fn write(&self, lines: &[&str]) {
        let (file, text) = (self.file(), lines.concat());
        fs::write(file, text.replace("FOLDER", self.folder.path().to_str().unwrap())).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("provider.toml")
    }

    /// What `reload` says of a file with these lines.
    async fn reload(&self, lines: &[&str]) -> Output {
        self.write(lines);
        told(&self.provider, &["reload"]).await
    }

    /// Model, digest, slots and price.
    async fn offered(&mut self) -> Vec<(String, String, u32, String)> {
        let models = self.tunnel.offer().await.models.into_iter();
        models.map(|m| (m.model, m.weights_digest, m.slots, m.ask.completion.to_string())).collect()
    }

    fn ticket(&self, model: &str, body: &str) -> Ticket {
        with(&self.tunnel.ticket(body), |ticket| ticket.model = model.into())
    }
}

const B: &str = "[[models]]\nengine = \"scripted\"\nscript = \"FOLDER/one.json\"\nmodel-id = \"test/b\"\n";
const C: &str = "[[models]]\nengine = \"scripted\"\nscript = \"FOLDER/other.json\"\nmodel-id = \"test/c\"\nslots = 3\n";

fn offer(model: &str, digest: &str, slots: u32, price: &str) -> (String, String, u32, String) {
    (model.into(), digest.into(), slots, price.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_and_what_runs_is_finished() {
    let mut owner = Owner::with(&[B]).await;
    let (first, body) = (offer("test/model", "sha256:abc", 4, "0.1"), streamed("briefly"));
    assert_eq!(owner.offered().await, [first.clone(), offer("test/b", "sha256:abc", 4, "0.1")]);
    let of_b = sign(&owner.ticket("test/b", &body));
    let mut running = owner.tunnel.send(&of_b, &body).await.begun();
    running.next().await.unwrap();

    owner.write(&[C]);
    let (provider, arguments) = (&owner.provider, ["reload"]);
    let (reloaded, ()) = tokio::join!(told(provider, &arguments), async {
        let mut tunnel = owner.tunnel.clone();
        eventually("b has left", async || {
            let models = tunnel.offer().await.models;
            models.iter().all(|model| model.model != "test/b").then_some(())
        })
        .await;
        assert_eq!(tunnel.send(&of_b, &body).await.refused(), (503, "provider_draining".into()), "nobody is to blame");
        tunnel.ask(&streamed("hello")).await.begun().all().await;
        assert_eq!(of_kind(&running.all().await, FrameKind::End).len(), 1, "what ran is complete");
    });
    assert_eq!(text(&reloaded), "removed  test/b\nadded    test/c\n");
    assert!(reloaded.status.success());
    assert_eq!(owner.offered().await, [first, offer("test/c", "sha256:def", 3, "0.1")]);
    let of_c = sign(&owner.ticket("test/c", &body));
    owner.tunnel.send(&of_c, &body).await.begun().all().await;
    owner.gateway.receipts_of(3).await;
    let status = owner.provider.status_when("all are over", |status| status["jobs"]["finished"] == 3).await;
    assert_eq!((&status["models"]["test/c"]["jobs"], &status["models"]["test/b"]), (&1.into(), &().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_slots_an_engine_and_hours_are_as_the_file_says_from_then_on() {
    let mut owner = Owner::with(&[C]).await;
    let first = offer("test/model", "sha256:abc", 4, "0.1");
    let dearer = C.replace("slots = 3", "slots = 5\nask-completion = \"0.30\"");
    assert_eq!(text(&owner.reload(&[&dearer]).await), "changed  test/c\n");
    assert_eq!(owner.offered().await, [first.clone(), offer("test/c", "sha256:def", 5, "0.3")]);
    let body = request("hello", "");
    let underpaid = sign(&owner.ticket("test/c", &body));
    assert_eq!(owner.tunnel.send(&underpaid, &body).await.refused().1, "bad_ticket");
    let paid = sign(&with(&owner.ticket("test/c", &body), |ticket| ticket.price.completion = usd("0.30")));
    owner.tunnel.send(&paid, &body).await.begun().all().await;

    let other = dearer.replace("other.json", "one.json");
    assert_eq!(text(&owner.reload(&["region = \"eu\"\n", &other]).await).lines().next(), Some("changed  test/c"));
    assert_eq!(owner.offered().await[1], offer("test/c", "sha256:abc", 5, "0.3"), "another engine");
    let told = text(&owner.reload(&["tunnels = 3\n", "hours = \"00:00-24:00\"\n", &other]).await);
    assert!(
        told.contains("when jobs are taken") && told.contains("later    tunnels: `lumbung-provider upgrade`"),
        "{told}"
    );
    assert!(!owner.tunnel.offer().await.draining);
    assert_eq!(text(&owner.reload(&["hours = \"00:00-24:00\"\n", &other]).await), "nothing has changed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_changes_nothing_and_a_model_that_cannot_be_loaded_only_itself() {
    let mut owner = Owner::with(&[B]).await;
    let before = owner.offered().await;
    for (lines, key) in [
        (&["tunnels = 99\n", C][..], "tunnels: 99 is not in 1..=8"),
        (&[B, "slots = 0\n"], "models[0].slots"),
        (&[C, C], "two models are called 'test/c'"),
        (&[C, "[[models]]\nengine = \"scripted\"\nscript = \"FOLDER/none\"\nmodel-id = \"x\"\n"], "/none"),
    ] {
        let refused = owner.reload(lines).await;
        assert!(!refused.status.success() && text(&refused).contains(key), "{key}: {}", text(&refused));
        assert_eq!(owner.offered().await, before, "{key}");
    }
    let nobody =
        "[[models]]\nengine = \"openai\"\nupstream = \"http://127.0.0.1:9/v1\"\nmodel = \"x\"\nmodel-id = \"test/x\"\n";
    let reloaded = owner.reload(&[B, nobody, C]).await;
    assert!(!reloaded.status.success() && text(&reloaded).contains("test/x is not served: "), "{}", text(&reloaded));
    assert!(text(&reloaded).contains("added    test/c"), "{}", text(&reloaded));
    let names: Vec<String> = owner.offered().await.into_iter().map(|(model, ..)| model).collect();
    assert_eq!(names, ["test/model", "test/b", "test/c"]);
    let again = text(&owner.reload(&[B, C]).await);
    assert_eq!(again, "nothing has changed\n", "what was never served is not removed");
}
