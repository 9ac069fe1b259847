//! Limits in the books, and what counts against budgets.

use lumbung_gateway::domain::calendar::Day;
use lumbung_gateway::domain::ids::{AccountId, KeyId, ReplicaId};
use lumbung_gateway::domain::limits::{Budgets, LimitOwner, Limits};
use lumbung_gateway::store::{KeyChange, NewKey, StoreErrorKind};
use sha2::{Digest, Sha256};

use crate::on_both;
use crate::support::{Provider, nanos, tokens, usd};

fn limits() -> Limits {
    Limits {
        budgets: Budgets { day: Some(usd("1.5")), week: None, month: Some(nanos(0)), total: Some(usd("100")) },
        models: None,
        requests_per_minute: Some(60),
        tokens_per_minute: Some(u32::MAX),
        concurrent_requests: Some(0),
        expires_at_us: Some(1_900_000_000_000_000),
        allow_probation: false,
    }
}

on_both! {
    async fn limits_are_kept_and_come_with_the_key(books: &Books) {
        let account = books.account_with(usd("5")).await;
        let (key, secret) = books.store.create_key(&account, "laptop").await.expect("a key");
        let found = async || {
            let found = books.store.find_caller(&Sha256::digest(&secret).into()).await.expect("answer");
            found.map(|caller| (caller.account_limits, caller.key_limits))
        };
        assert_eq!(found().await, Some((Limits::default(), Limits::default())));

        let before = books.store.epoch().await.expect("answer");
        books.store.set_limits(LimitOwner::Key(key.id), &limits()).await.expect("set");
        assert!(books.store.epoch().await.expect("answer") > before, "gateways must notice");
        assert_eq!(found().await, Some((Limits::default(), limits())));
        let account_limits = Limits { tokens_per_minute: Some(7), ..Limits::default() };
        books.store.set_limits(LimitOwner::Account(account), &account_limits).await.expect("set");
        assert_eq!(found().await, Some((account_limits, limits())));
        books.store.set_limits(LimitOwner::Key(key.id), &Limits::default()).await.expect("cleared");
        assert_eq!(books.store.limits(LimitOwner::Key(key.id)).await.expect("answer"), Limits::default());

        for nobody in [LimitOwner::Key(KeyId::fresh()), LimitOwner::Account(AccountId::fresh())] {
            let error = books.store.set_limits(nobody, &limits()).await.expect_err("nobody");
            assert_eq!(error.kind(), StoreErrorKind::Missing);
        }
        let debt = Limits { budgets: Budgets { day: Some(nanos(-1)), ..Budgets::default() }, ..Limits::default() };
        let error = books.store.set_limits(LimitOwner::Key(key.id), &debt).await.expect_err("a budget below zero");
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
    }

    async fn models_are_limited_by_any_of_their_names(books: &Books) {
        let account = books.account_with(usd("5")).await;
        let model = lumbung_gateway::domain::catalogue::CatalogueModel {
            id: "tiny".parse().expect("a model id"),
            aliases: vec!["small".into()],
            digests: vec![],
            context_length: 100,
            max_completion_tokens: None,
            input_modalities: Default::default(),
            output_modalities: Default::default(),
            tokenizer: None,
            reference: Default::default(),
            created_at_us: 0,
        };
        books.store.upsert_model(&model).await.expect("a model");
        let limits = |names: &[&str]| {
            let models = names.iter().map(|name| name.parse().expect("a model id")).collect();
            Limits { models: Some(models), ..Limits::default() }
        };
        let owner = LimitOwner::Account(account);
        books.store.set_limits(owner, &limits(&["small", "tiny"])).await.expect("both are one");
        assert_eq!(books.store.limits(owner).await.expect("answer"), limits(&["tiny"]));
        let error = books.store.set_limits(owner, &limits(&["huge"])).await.expect_err("no such model");
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert_eq!(books.store.limits(owner).await.expect("answer"), limits(&["tiny"]), "as it was");
    }

    async fn keys_are_made_and_changed_by_their_own_account_only(books: &Books) {
        let (mine, theirs) = (books.account_with(usd("5")).await, books.account_with(usd("5")).await);
        let new = NewKey { label: "ci".into(), management: true, limits: limits() };
        let (key, secret) = books.store.create_key_with(&mine, &new).await.expect("a key");
        assert!(key.management && !key.disabled);
        let is_found = async || books.store.find_key(&Sha256::digest(&secret).into()).await.expect("answer").is_some();
        assert!(is_found().await);
        let by_hash = books.store.key_of(&mine, &key.sha256).await.expect("answer");
        assert_eq!(by_hash, Some((key.clone(), limits())));
        assert_eq!(books.store.key_of(&theirs, &key.id.to_string()).await.expect("answer"), None);

        let off = KeyChange { disabled: Some(true), ..KeyChange::default() };
        let error = books.store.change_key(&theirs, &key.id, &off).await.expect_err("not theirs");
        assert_eq!(error.kind(), StoreErrorKind::Missing);
        assert!(is_found().await);
        books.store.change_key(&mine, &key.id, &off).await.expect("disabled");
        assert!(!is_found().await);
        let on = KeyChange { label: Some("new".into()), disabled: Some(false), limits: Some(Limits::default()) };
        books.store.change_key(&mine, &key.id, &on).await.expect("enabled");
        assert!(is_found().await);
        let (changed, limits) = books.store.key_of(&mine, &key.id.to_string()).await.expect("answer").expect("it is there");
        assert_eq!((changed.label.as_str(), changed.management, limits), ("new", true, Limits::default()));

        let (second, _) = books.store.create_key(&mine, "second").await.expect("a key");
        let page = async |after: Option<&KeyId>, limit| {
            let page = books.store.account_keys(&mine, after, limit).await.expect("answer");
            page.into_iter().map(|(key, _)| key.id).collect::<Vec<_>>()
        };
        let ids = page(None, 10).await;
        assert_eq!(ids.len(), 2);
        assert_eq!((page(None, 1).await, page(Some(&ids[0]), 10).await), (vec![ids[0]], vec![ids[1]]));
        books.store.revoke_key(&second.id).await.expect("revoked");
        assert_eq!(page(None, 10).await, [key.id]);
        let error = books.store.change_key(&mine, &second.id, &on).await.expect_err("revoked");
        assert_eq!(error.kind(), StoreErrorKind::Missing);
    }

    async fn what_was_spent_is_told_by_day_and_by_who_spent_it(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let spend = async |completion| {
            let ticket = customer.ticket(books, &provider).await;
            books.settle(&[customer.settlement(books, ticket, tokens(0, completion))]).await;
        };
        spend(10).await;
        spend(5).await;
        let cost = nanos(15 * 2000);
        let (account, key) = (&customer.account, Some(&customer.key));
        let spent = async |key: Option<&KeyId>, replica: &ReplicaId, from| {
            books.store.spent(account, key, replica, from).await.expect("answer")
        };
        let own = spent(key, &customer.lease.replica, 0).await;
        assert_eq!(own.lines.len(), 1);
        assert_eq!((own.lines[0].is_own, own.lines[0].is_recent, own.lines[0].amount), (true, true, cost));
        assert_eq!(own.lines[0].day, Day::of_us(books.store.now_us().await.expect("the clock")));
        assert_eq!(spent(Some(&KeyId::fresh()), &customer.lease.replica, 0).await.lines, []);

        books.store.shift_clock(std::time::Duration::from_secs(600));
        spend(1).await;
        let others = spent(None, &ReplicaId::fresh(), 0).await;
        let mut lines: Vec<_> = others.lines.iter().map(|line| (line.is_own, line.is_recent, line.amount)).collect();
        lines.sort();
        assert_eq!(lines, [(false, false, cost), (false, true, nanos(2000))]);
        let again = spent(None, &ReplicaId::fresh(), others.until_us).await;
        assert_eq!(again.lines.iter().map(|line| line.amount).collect::<Vec<_>>(), [nanos(2000)], "nothing twice");
    }
}
