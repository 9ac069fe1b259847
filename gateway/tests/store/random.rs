//! Random sequences of everything that moves money: after every step the books balance, nobody is below zero, no job was
//! charged twice or above its ceiling, and all the money that came in is still somewhere.

use std::time::Duration;

use lumbung_gateway::domain::ids::{AccountId, AllowanceId};
use lumbung_gateway::domain::settlement::Tokens;
use lumbung_gateway::store::{CreditKind, Lease, SettleOutcome, Settlement};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;
use proptest::prelude::*;

use crate::support::{Books, CLAIM_WINDOW, Customer, LEASE, Provider, claims, nanos, tokens};

#[derive(Clone, Debug)]
enum Step {
    AddCredit {
        account: usize,
        amount: i64,
    },
    Reserve {
        account: usize,
        need: i64,
        slice: i64,
    },
    GiveBack {
        account: usize,
        amount: i64,
    },
    /// New jobs, and one of the old ones again.
    Settle {
        jobs: Vec<(usize, usize, Tokens, bool)>,
        again: usize,
    },
    /// A ticket that its gateway never settles.
    Abandon {
        account: usize,
        provider: usize,
    },
    Offer {
        job: usize,
        tokens: Tokens,
    },
    ReplicaDies {
        gracefully: bool,
    },
    TimePasses {
        secs: u64,
    },
    Release,
    Reclaim,
    RollUp,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = 0..2_000_000i64;
    let used = (0..120u32, 0..240u32).prop_map(|(prompt, completion)| tokens(prompt, completion));
    let job = (0..3usize, 0..2usize, used.clone(), any::<bool>());
    prop_oneof![
        2 => (0..3usize, 1..2_000_000i64).prop_map(|(account, amount)| Step::AddCredit { account, amount }),
        4 => (0..3usize, amount.clone(), amount.clone()).prop_map(|(account, need, slice)| Step::Reserve { account, need, slice }),
        2 => (0..3usize, amount).prop_map(|(account, amount)| Step::GiveBack { account, amount }),
        5 => (prop::collection::vec(job, 1..5), 0..20usize).prop_map(|(jobs, again)| Step::Settle { jobs, again }),
        2 => (0..3usize, 0..2usize).prop_map(|(account, provider)| Step::Abandon { account, provider }),
        5 => (0..20usize, used).prop_map(|(job, tokens)| Step::Offer { job, tokens }),
        1 => any::<bool>().prop_map(|gracefully| Step::ReplicaDies { gracefully }),
        2 => (1..400u64).prop_map(|secs| Step::TimePasses { secs }),
        1 => Just(Step::Release),
        1 => Just(Step::Reclaim),
        1 => Just(Step::RollUp),
    ]
}

struct World {
    books: Books,
    accounts: Vec<AccountId>,
    providers: [Provider; 2],
    lease: Lease,
    /// By account, at the replica that lives.
    allowances: [Option<AllowanceId>; 3],
    jobs: Vec<(Ticket, usize, Option<Settlement>)>,
    paid_in: i64,
}

impl World {
    async fn new() -> Self {
        let books = Books::sqlite().await;
        let mut accounts = Vec::new();
        for credit in [1_000_000, 5_000_000, 10_000_000] {
            accounts.push(books.account_with(nanos(credit)).await);
        }
        let (providers, lease) = ([Provider::new(1), Provider::new(2)], books.replica().await);
        Self { books, accounts, providers, lease, allowances: [None; 3], jobs: Vec::new(), paid_in: 16_000_000 }
    }

    async fn take(&mut self, step: Step) {
        let store = self.books.store.clone();
        match step {
            Step::AddCredit { account, amount } => {
                let account = &self.accounts[account];
                store.add_credit(account, nanos(amount), CreditKind::Promotional, "").await.expect("credit");
                self.paid_in += amount;
            }
            Step::Reserve { account, need, slice } => {
                let before = store.account_balance(&self.accounts[account]).await.expect("a balance").credit;
                let id = &self.accounts[account];
                let reserved = store.reserve(id, &self.lease.replica, nanos(need), nanos(slice)).await.expect("answer");
                assert_eq!(reserved.is_some(), nanos(need) <= before);
                self.allowances[account] = reserved.map(|r| r.allowance).or(self.allowances[account]);
            }
            Step::GiveBack { account, amount } => {
                if let Some(allowance) = self.allowances[account] {
                    store.give_back(&allowance, nanos(amount)).await.expect("answer");
                }
            }
            Step::Settle { jobs, again } => {
                let mut batch = Vec::new();
                for (account, provider, used, with_receipt) in jobs {
                    let Some(index) = self.issue(account, provider).await else { continue };
                    let receipt = with_receipt.then(|| claims(used));
                    let settlement = self.customer(account).settlement(&self.books, self.jobs[index].0.clone(), used);
                    self.jobs[index].2 = Some(Settlement { receipt, ..settlement });
                    batch.extend(self.jobs[index].2.clone());
                }
                batch.extend(self.jobs.get(again).and_then(|(_, _, settlement)| settlement.clone()));
                let outcomes = self.books.settle(&batch).await;
                for (settlement, outcome) in batch.iter().zip(outcomes) {
                    if let SettleOutcome::Settled(charge) = outcome {
                        assert!(charge.amount <= settlement.charge.amount);
                    }
                }
            }
            Step::Abandon { account, provider } => drop(self.issue(account, provider).await),
            Step::Offer { job, tokens } => {
                if let Some((ticket, provider, _)) = self.jobs.get(job) {
                    let provider = &self.providers[*provider];
                    let receipt = provider.vouched_receipt(&self.books, ticket, tokens);
                    self.books.offer(provider, vec![receipt]).await;
                }
            }
            Step::ReplicaDies { gracefully } => {
                if gracefully {
                    store.end_lease(&self.lease).await.expect("answer");
                }
                self.lease = self.books.replica().await;
                self.allowances = [None; 3];
            }
            Step::TimePasses { secs } => {
                store.shift_clock(Duration::from_secs(secs));
                if !store.renew_lease(&mut self.lease).await.expect("answer") {
                    self.lease = self.books.replica().await; // dead, and started again
                    self.allowances = [None; 3];
                }
            }
            Step::Release => drop(store.release_ended(CLAIM_WINDOW).await.expect("answer")),
            Step::Reclaim => drop(store.reclaim_withheld().await.expect("answer")),
            Step::RollUp => {
                store.roll_up().await.expect("answer");
                store.roll_up_usage().await.expect("answer");
            }
        }
    }

    fn customer(&self, account: usize) -> Customer {
        let allowance = self.allowances[account].expect("checked by whoever asks");
        let key = lumbung_gateway::domain::ids::KeyId::fresh();
        Customer { account: self.accounts[account], key, lease: self.lease.clone(), allowance }
    }

    /// Issues a ticket, if something has been set aside.
    async fn issue(&mut self, account: usize, provider: usize) -> Option<usize> {
        self.allowances[account]?;
        let ticket = self.customer(account).ticket(&self.books, &self.providers[provider]).await;
        self.jobs.push((ticket, provider, None));
        Some(self.jobs.len() - 1)
    }

    async fn assert_sound(&self) {
        self.books.assert_right().await;
        let mut somewhere = self.books.revenue().await.nanos();
        for provider in &self.providers {
            let earnings = self.books.store.earnings(&provider.id).await.expect("earnings");
            assert!(earnings.pending >= NanoUsd::ZERO && earnings.promotional >= NanoUsd::ZERO);
            somewhere += earnings.pending.nanos() + earnings.promotional.nanos();
        }
        for account in &self.accounts {
            somewhere += self.books.spendable(account).await.nanos();
        }
        assert_eq!(somewhere, self.paid_in, "what came in is what is there");
    }
}

#[test]
fn whatever_happens_the_books_are_right() {
    let full = std::env::var_os("LUMBUNG_TEST_FULL").is_some();
    let config =
        ProptestConfig { cases: if full { 1024 } else { 64 }, failure_persistence: None, ..Default::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    proptest!(config, |(steps in prop::collection::vec(step(), 1..40))| {
        runtime.block_on(async {
            assert!(LEASE < CLAIM_WINDOW);
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
                world.assert_sound().await;
            }
            world.books.finish().await;
        });
    });
}
