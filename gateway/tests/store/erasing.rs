//! Erasing, while others write: nothing personal is written behind it, and no figure is lost.

use lumbung_gateway::store::{CreditKind, Leftover, StoreErrorKind};

use crate::on_both;
use crate::support::usd;

/// Rounds in each of which four do it at the same time.
const ROUNDS: usize = 12;

on_both! {
    async fn what_is_written_at_the_same_moment_is_erased_or_refused(books: &Books) {
        let other = books.other_process().await;
        for round in 0..ROUNDS {
            let account = other.create_account("Ana").await.expect("an account").id;
            let reference = format!("payment {round} of Ana");
            let (erased, again, key, credit) = tokio::join!(
                books.store.erase_account(&account, Some(Leftover::Forfeit)),
                other.erase_account(&account, Some(Leftover::Refund)),
                other.create_key(&account, "Ana's"),
                other.add_credit(&account, usd("1"), CreditKind::Paid, &reference),
            );
            erased.expect("erased");
            again.expect("erased, once more or before");
            // What came too late was refused; what came before is gone, as is looked at below.
            assert!(key.is_ok() || key.is_err_and(|error| error.kind() == StoreErrorKind::Missing));
            assert!(credit.is_ok() || credit.is_err_and(|error| error.kind() == StoreErrorKind::Conflict));
        }
        let left = "SELECT (SELECT COUNT(*) FROM accounts WHERE name <> '') + (SELECT COUNT(*) FROM api_keys WHERE label <> '')
            + (SELECT COUNT(*) FROM postings WHERE reference LIKE '%Ana%')
            + (SELECT COUNT(*) FROM ledger_accounts WHERE kind = 'credit' AND balance <> 0)";
        assert_eq!(books.number(left).await, 0);
        other.close().await;
    }

    async fn credit_that_is_left_is_settled_with_it_or_nothing_is_erased(books: &Books) {
        let account = books.account_with(usd("3")).await;
        books.store.add_credit(&account, usd("2"), CreditKind::Promotional, "").await.expect("credit");
        let refused = books.store.erase_account(&account, None).await.expect_err("credit is left");
        assert_eq!(refused.kind(), StoreErrorKind::Conflict);
        assert_eq!(books.store.account(&account).await.expect("an account").name, "someone");
        let revenue = books.revenue().await;
        let erased = books.store.erase_account(&account, Some(Leftover::Forfeit)).await.expect("erased");
        assert_eq!((erased.refunded, erased.forfeited, erased.lapsed), (usd("0"), usd("3"), usd("2")));
        assert_eq!(books.revenue().await, revenue.checked_add(usd("3")).expect("a sum"));
        assert_eq!(books.spendable(&account).await, usd("0"));
        books.assert_right().await;
        // Money that is set aside somewhere is in the way, whatever becomes of the rest.
        let customer = books.customer("4").await;
        let refused = books.store.erase_account(&customer.account, Some(Leftover::Refund)).await.expect_err("set aside");
        assert!(refused.to_string().contains("requests may be running"), "{refused}");
        assert_eq!(books.spendable(&customer.account).await, usd("4"));
    }
}
