//! Accounts, keys and credit.

use lumbung_gateway::domain::ids::{AccountId, KeyId};
use lumbung_gateway::domain::posting::LedgerId;
use lumbung_gateway::store::{CreditKind, StoreErrorKind};
use sha2::{Digest, Sha256};

use crate::on_both;
use crate::support::{nanos, usd};

fn sha256(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

on_both! {
    async fn a_key_is_found_by_its_hash_until_it_is_revoked(books: &Books) {
        let account = books.account_with(usd("5")).await;
        let (key, secret) = books.store.create_key(&account, "laptop").await.expect("a key");
        assert!(secret.starts_with("sk-lumbung-") && secret.len() == "sk-lumbung-".len() + 43, "{secret}");
        assert!(secret.starts_with(&key.shown_prefix) && key.shown_prefix.len() < 20);
        assert_eq!(books.store.find_key(&sha256(&secret)).await.expect("answer"), Some(key.clone()));
        assert_eq!(books.store.find_key(&sha256("sk-lumbung-guess")).await.expect("answer"), None);

        let before = books.store.epoch().await.expect("answer");
        books.store.revoke_key(&key.id).await.expect("revoked");
        assert!(books.store.epoch().await.expect("answer") > before, "gateways must notice");
        assert_eq!(books.store.find_key(&sha256(&secret)).await.expect("answer"), None);
        assert_eq!(books.store.keys(Some(&account)).await.expect("answer").len(), 1, "it stays listed");
        let unknown = books.store.revoke_key(&KeyId::fresh()).await.expect_err("no such key");
        assert_eq!(unknown.kind(), StoreErrorKind::Missing);
    }

    async fn a_closed_accounts_keys_are_good_no_more(books: &Books) {
        let (open, closed) = (books.account_with(usd("5")).await, books.account_with(usd("5")).await);
        let (_, stays) = books.store.create_key(&open, "").await.expect("a key");
        let (_, goes) = books.store.create_key(&closed, "").await.expect("a key");
        let before = books.store.epoch().await.expect("answer");
        books.store.close_account(&closed).await.expect("closed");
        assert!(books.store.epoch().await.expect("answer") > before);
        assert!(books.store.find_key(&sha256(&stays)).await.expect("answer").is_some());
        assert_eq!(books.store.find_key(&sha256(&goes)).await.expect("answer"), None);
        assert!(books.store.account(&closed).await.expect("it stays in the books").closed_at_us.is_some());
        let refused = books.store.create_key(&closed, "").await.expect_err("closed");
        assert_eq!(refused.kind(), StoreErrorKind::Missing);
    }

    async fn credit_comes_from_outside_once_per_payment(books: &Books) {
        let account = books.store.create_account("someone").await.expect("an account").id;
        let add = async |amount, reference: &str| {
            books.store.add_credit(&account, amount, CreditKind::Paid, reference).await.map_err(|error| error.kind())
        };
        assert_eq!(add(usd("5"), "pay_1").await.map(|balance| balance.spendable), Ok(usd("5")));
        assert_eq!(add(usd("5"), "pay_1").await, Err(StoreErrorKind::Conflict));
        assert!(add(usd("1"), "").await.is_ok());
        assert!(add(usd("1"), "").await.is_ok(), "without a reference nothing is compared");
        assert_eq!(add(nanos(0), "").await, Err(StoreErrorKind::Invalid));
        assert_eq!(add(nanos(-1), "").await, Err(StoreErrorKind::Invalid));
        let gift = books.store.add_credit(&account, usd("2"), CreditKind::Promotional, "").await.expect("credit");
        assert_eq!((gift.credit, gift.allowances, gift.spendable), (usd("9"), nanos(0), usd("9")));
        assert_eq!(books.store.balance(&LedgerId::outside()).await.expect("answer"), usd("-9"));
        let nobody = books.store.add_credit(&AccountId::fresh(), usd("1"), CreditKind::Paid, "").await;
        assert_eq!(nobody.expect_err("no such account").kind(), StoreErrorKind::Missing);
    }

    async fn one_payment_told_by_many_at_once_is_credited_once(books: &Books) {
        let account = books.store.create_account("someone").await.expect("an account").id;
        let mut telling = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = books.store.clone();
            telling.spawn(async move { store.add_credit(&account, usd("5"), CreditKind::Paid, "pay_1").await.is_ok() });
        }
        let credited = telling.join_all().await.into_iter().filter(|credited| *credited).count();
        assert_eq!((credited, books.spendable(&account).await), (1, usd("5")));
    }

    async fn money_beyond_what_the_books_can_hold_is_refused_not_wrapped(books: &Books) {
        let most = nanos(1_000_000_000_000_000_000);
        let account = books.account_with(most).await;
        let more = books.store.add_credit(&account, nanos(i64::MAX), CreditKind::Paid, "").await.expect_err("too much");
        assert_eq!(more.kind(), StoreErrorKind::Invalid);
        for _ in 1..9 {
            books.store.add_credit(&account, most, CreditKind::Paid, "").await.expect("up to nine billion dollars");
        }
        let tenth = books.store.add_credit(&account, most, CreditKind::Paid, "").await.expect_err("too much");
        assert_eq!(tenth.kind(), StoreErrorKind::Invalid);
        assert_eq!(books.spendable(&account).await, nanos(9_000_000_000_000_000_000));
    }

    async fn accounts_are_listed_in_the_order_they_were_opened(books: &Books) {
        for name in ["first", "second"] {
            books.store.create_account(name).await.expect("an account");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let names: Vec<String> = books.store.accounts().await.expect("answer").into_iter().map(|a| a.name).collect();
        assert_eq!(names, ["first", "second"]);
    }
}
