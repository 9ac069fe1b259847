//! What gateways share besides money: keys, the catalogue, providers' standing; and a database that goes away.

use lumbung_gateway::domain::catalogue::CatalogueModel;
use lumbung_gateway::domain::provider::Standing;
use lumbung_gateway::store::{Store, StoreErrorKind};
use lumbung_openapi::money::TokenPrice;

use crate::on_both;
use crate::support::{Provider, tokens, usd};

fn model(id: &str, aliases: &[&str]) -> CatalogueModel {
    CatalogueModel {
        id: id.parse().expect("a model id"),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        digests: vec!["sha256:a".into()],
        context_length: 4096,
        max_completion_tokens: None,
        input_modalities: Default::default(),
        output_modalities: Default::default(),
        tokenizer: None,
        reference: TokenPrice { prompt: usd("0.1"), completion: usd("0.4") },
        created_at_us: 0,
    }
}

on_both! {
    async fn gateways_that_start_at_once_share_one_set_of_keys(books: &Books) {
        books.sql("DELETE FROM signing_keys").await;
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = books.other_process().await;
            starting.spawn(async move {
                let keys = store.signing_keys().await.expect("keys");
                store.close().await;
                keys.ids()
            });
        }
        let mut keys = starting.join_all().await;
        keys.dedup();
        assert_eq!(keys.len(), 1);
        assert_eq!(books.number("SELECT COUNT(*) FROM signing_keys").await, 2);
    }

    async fn what_a_retired_key_signed_still_verifies(books: &Books) {
        let customer = books.customer("1").await;
        let ticket = customer.ticket(books, &Provider::new(1)).await;
        let text = books.keys.sign_ticket(&ticket);
        let rotated = books.store.rotate_signing_keys().await.expect("new keys");
        assert_ne!(rotated.ids().0, books.keys.ids().0);
        assert_eq!(rotated.verify_ticket(&text), Ok(ticket));
        assert!(books.keys.verify_ticket(&rotated.sign_ticket(&customer.ticket(books, &Provider::new(1)).await)).is_err());
        assert_eq!(rotated.published().keys.len(), 2, "retired public keys stay published");
        let read = books.store.signing_keys().await.expect("keys");
        assert_eq!(read.ids(), rotated.ids());
    }

    async fn the_catalogue_is_what_was_put_in_and_every_change_is_announced(books: &Books) {
        let epoch = async || books.store.epoch().await.expect("answer");
        let start = epoch().await;
        books.store.upsert_model(&model("tiny", &["small"])).await.expect("added");
        let added = epoch().await;
        assert!(added > start);
        let changed = CatalogueModel { max_completion_tokens: Some(512), digests: vec![], ..model("tiny", &["small", "mini"]) };
        books.store.upsert_model(&changed).await.expect("changed");
        let changed_at = epoch().await;
        assert!(changed_at > added);
        let models = books.store.models().await.expect("answer");
        let created_at_us = models[0].created_at_us;
        assert!(created_at_us > 0);
        assert_eq!(models, vec![CatalogueModel { created_at_us, ..changed }]);
        books.store.remove_model(&"tiny".parse().expect("id")).await.expect("removed");
        assert!(epoch().await > changed_at);
        assert_eq!(books.store.models().await.expect("answer"), vec![]);
        let gone = books.store.remove_model(&"tiny".parse().expect("id")).await.expect_err("gone");
        assert_eq!(gone.kind(), StoreErrorKind::Missing);
    }

    async fn no_two_models_have_a_name_in_common(books: &Books) {
        books.store.upsert_model(&model("tiny", &["small"])).await.expect("added");
        for clash in [model("small", &[]), model("other", &["tiny"]), model("other", &["small"])] {
            let refused = books.store.upsert_model(&clash).await.expect_err("a name in common");
            assert_eq!(refused.kind(), StoreErrorKind::Conflict);
        }
        let mut free = model("free", &[]);
        free.reference.prompt = usd("-1");
        assert_eq!(books.store.upsert_model(&free).await.expect_err("mints money").kind(), StoreErrorKind::Invalid);
    }

    async fn a_provider_is_a_newcomer_until_the_operator_says_otherwise(books: &Books) {
        let (one, other) = (Provider::new(1), Provider::new(2));
        let epoch = books.store.epoch().await.expect("answer");
        assert_eq!(books.store.register_provider(&one.id).await.expect("answer"), Standing::Newcomer);
        assert_eq!(books.store.register_provider(&one.id).await.expect("answer"), Standing::Newcomer);
        assert_eq!(books.store.epoch().await.expect("answer"), epoch, "strangers do not empty caches");
        books.store.set_standing(&one.id, Standing::Trusted).await.expect("set");
        books.store.set_standing(&other.id, Standing::Banned).await.expect("set before it ever came");
        assert!(books.store.epoch().await.expect("answer") > epoch);
        assert_eq!(books.store.register_provider(&one.id).await.expect("answer"), Standing::Trusted);
        assert_eq!(books.store.register_provider(&other.id).await.expect("answer"), Standing::Banned);
        let known: Vec<_> = books.store.providers().await.expect("answer").into_iter().map(|p| (p.id, p.standing)).collect();
        assert_eq!(known, [(one.id, Standing::Trusted), (other.id, Standing::Banned)]);
    }

    async fn books_opened_again_are_as_they_were(books: &Books) {
        let customer = books.customer("1").await;
        let ticket = customer.ticket(books, &Provider::new(1)).await;
        books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        let again = books.other_process().await;
        let balance = again.account_balance(&customer.account).await.expect("a balance");
        assert_eq!(balance.spendable, usd("0.99995"));
        assert_eq!(again.books_check().await.expect("a report").attempts, 1);
        again.close().await;
    }

    async fn books_that_are_closed_are_unavailable(books: &Books) {
        let other = books.other_process().await;
        other.close().await;
        assert_eq!(other.epoch().await.expect_err("closed").kind(), StoreErrorKind::Unavailable);
        assert_eq!(other.roll_up().await.expect_err("closed").kind(), StoreErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let error = Store::open("postgres://nobody@127.0.0.1:1/none").await.err().expect("nothing listens there");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (StoreErrorKind::Unavailable, "the books cannot be reached")
    );
}

#[tokio::test]
async fn a_url_of_no_kind_is_told_without_being_repeated() {
    let error = Store::open("mysql://root:secret@127.0.0.1/none").await.err().expect("no such kind of books");
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(!error.to_string().contains("secret"));
}

/// The books hold the signing keys.
#[tokio::test]
async fn a_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let books = crate::support::Books::sqlite().await;
    books.account_with(usd("1")).await;
    let file = books.url.strip_prefix("sqlite:").expect("a path");
    for file in [file.to_owned(), format!("{file}-wal")] {
        let mode = std::fs::metadata(&file).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
    books.finish().await;
}

/// The server ends every connection, as it does when it restarts: the books are found again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_found_again() {
    let books = crate::support::Books::postgres().await;
    let account = books.account_with(usd("1")).await;
    for _ in 0..3 {
        let others = "SELECT CAST(COUNT(pg_terminate_backend(pid)) AS BIGINT) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        assert!(books.number(others).await > 0, "there were connections to end");
        assert_eq!(books.spendable(&account).await, usd("1"));
    }
    books.finish().await;
}
