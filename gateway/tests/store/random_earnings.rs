//! Random sequences of everything that moves a provider's money: after every step the books are right, nothing is below
//! zero, and the statement adds up to the ledger to the nano-dollar.

use std::time::Duration;

use lumbung_gateway::domain::ids::{JobId, PayoutId};
use lumbung_gateway::domain::posting::LedgerId;
use lumbung_gateway::domain::settlement::Tokens;
use lumbung_gateway::store::{Claw, CreditKind, PayoutState, PayoutTerms, StatementPage, StoreErrorKind, Verdict};
use lumbung_openapi::earnings::{EarningState, PromotionalState};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;
use proptest::prelude::*;

use crate::support::{Books, Customer, Provider, nanos, tokens};

const HOLDBACK: Duration = Duration::from_secs(600);
const COOLDOWN: Duration = Duration::from_secs(100);

#[derive(Clone, Debug)]
enum Step {
    Settle { client: usize, provider: usize, used: Tokens },
    Offer { job: usize, used: Option<Tokens> },
    Give { client: usize, amount: i64 },
    TimePasses { secs: u64 },
    Mature,
    Withhold,
    ClawJob { job: usize },
    ClawAmount { provider: usize, amount: i64 },
    Decide { provider: usize, client: Option<usize>, approve: bool },
    ChangeDetails { provider: usize, to: u8 },
    PayOut { minimum: i64 },
    DecidePayout { payout: usize, confirm: bool },
    RollUp,
}

fn step() -> impl Strategy<Value = Step> {
    let used = || (0..60u32, 0..120u32).prop_map(|(prompt, completion)| tokens(prompt, completion));
    prop_oneof![
        6 => (0..2usize, 0..2usize, used()).prop_map(|(client, provider, used)| Step::Settle { client, provider, used }),
        6 => (0..12usize, prop::option::weighted(0.3, used())).prop_map(|(job, used)| Step::Offer { job, used }),
        1 => (0..2usize, 1..200_000i64).prop_map(|(client, amount)| Step::Give { client, amount }),
        3 => (1..700u64).prop_map(|secs| Step::TimePasses { secs }),
        3 => Just(Step::Mature),
        1 => Just(Step::Withhold),
        2 => (0..12usize).prop_map(|job| Step::ClawJob { job }),
        2 => (0..2usize, 1..100_000i64).prop_map(|(provider, amount)| Step::ClawAmount { provider, amount }),
        2 => (0..2usize, prop::option::of(0..2usize), any::<bool>())
            .prop_map(|(provider, client, approve)| Step::Decide { provider, client, approve }),
        1 => (0..2usize, any::<u8>()).prop_map(|(provider, to)| Step::ChangeDetails { provider, to }),
        2 => (1..50_000i64).prop_map(|minimum| Step::PayOut { minimum }),
        2 => (0..6usize, any::<bool>()).prop_map(|(payout, confirm)| Step::DecidePayout { payout, confirm }),
        1 => Just(Step::RollUp),
    ]
}

struct World {
    books: Books,
    clients: Vec<Customer>,
    providers: [Provider; 2],
    jobs: Vec<(Ticket, usize, Tokens)>,
    payouts: Vec<PayoutId>,
}

impl World {
    async fn new() -> Self {
        let books = Books::sqlite().await;
        let mut clients = Vec::new();
        for given in [1, 150_000] {
            let client = books.customer("0.1").await;
            books.store.add_credit(&client.account, nanos(given), CreditKind::Promotional, "").await.expect("credit");
            clients.push(client);
        }
        let providers = [Provider::new(1), Provider::new(2)];
        for provider in &providers {
            books.store.register_provider(&provider.id).await.expect("joined");
            books.store.set_payout_details(&provider.id, "first").await.expect("details");
        }
        Self { books, clients, providers, jobs: Vec::new(), payouts: Vec::new() }
    }

    async fn take(&mut self, step: Step) {
        let store = self.books.store.clone();
        match step {
            Step::Settle { client, provider, used } => {
                let client = &self.clients[client];
                let ticket = client.ticket(&self.books, &self.providers[provider]).await;
                self.books.settle(&[client.settlement(&self.books, ticket.clone(), used)]).await;
                self.jobs.push((ticket, provider, used));
            }
            Step::Offer { job, used } => {
                if let Some((ticket, provider, delivered)) = self.jobs.get(job) {
                    let provider = &self.providers[*provider];
                    let receipt = provider.receipt(&self.books, ticket, used.unwrap_or(*delivered));
                    self.books.offer(provider, vec![receipt]).await;
                }
            }
            Step::Give { client, amount } => {
                let account = &self.clients[client].account;
                store.add_credit(account, nanos(amount), CreditKind::Promotional, "").await.expect("credit");
            }
            Step::TimePasses { secs } => store.shift_clock(Duration::from_secs(secs)),
            Step::Mature => drop(store.mature(HOLDBACK).await.expect("answer")),
            Step::Withhold => drop(store.reclaim_withheld().await.expect("answer")),
            Step::ClawJob { job } => {
                if let Some((ticket, provider, _)) = self.jobs.get(job) {
                    let claw = Claw::Jobs(vec![ticket.job.parse::<JobId>().expect("an id")]);
                    self.claw(*provider, &claw).await;
                }
            }
            Step::ClawAmount { provider, amount } => self.claw(provider, &Claw::Amount(nanos(amount))).await,
            Step::Decide { provider, client, approve } => {
                let account = client.map(|client| self.clients[client].account);
                let verdict = if approve { Verdict::Approved } else { Verdict::Refused };
                let provider = &self.providers[provider].id;
                let decided = store.decide_promotional(provider, account.as_ref(), verdict, "because").await;
                match decided {
                    Ok(decided) => assert!(decided.amount > NanoUsd::ZERO),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
                }
            }
            Step::ChangeDetails { provider, to } => {
                let changed = store.set_payout_details(&self.providers[provider].id, &format!("account {to}")).await;
                match changed {
                    Ok(details) => assert!(details.version > 1),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
                }
            }
            Step::PayOut { minimum } => {
                let terms = PayoutTerms { minimum: nanos(minimum), cooldown: COOLDOWN, reference: String::new() };
                let run = store.create_payouts(&terms).await.expect("a run");
                let payouts = store.payouts_of(&run.id).await.expect("payouts");
                assert!(payouts.iter().all(|payout| payout.amount >= terms.minimum));
                self.payouts.extend(payouts.iter().map(|payout| payout.id));
            }
            Step::DecidePayout { payout, confirm } => {
                let Some(id) = self.payouts.get(payout) else { return };
                let before = store.payout(id).await.expect("a payout").state;
                let (wanted, decided) = match confirm {
                    true => (PayoutState::Confirmed, store.confirm_payout(id, "transfer").await),
                    false => (PayoutState::Reversed, store.reverse_payout(id).await),
                };
                assert_eq!(decided.is_ok(), before == PayoutState::InTransit || before == wanted);
            }
            Step::RollUp => drop(store.roll_up().await.expect("answer")),
        }
    }

    async fn claw(&self, provider: usize, claw: &Claw) {
        let provider = &self.providers[provider];
        let before = self.books.pending(provider).await;
        match self.books.store.claw_back(&provider.id, claw, "a reason", "").await {
            Ok(done) => {
                let after = self.books.pending(provider).await;
                assert_eq!(before.checked_sub(done.amount), Some(after));
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
        }
    }

    async fn assert_sound(&self) {
        self.books.assert_right().await;
        for provider in &self.providers {
            let page = StatementPage { limit: 500, ..StatementPage::default() };
            let statement = self.books.store.earnings_statement(&provider.id, &page, HOLDBACK, COOLDOWN).await;
            let statement = statement.expect("a statement");
            let totals = &statement.totals;
            let ledger = self.books.store.earnings(&provider.id).await.expect("earnings");
            assert_eq!(
                (totals.pending, totals.payable, totals.promotional),
                (ledger.pending, ledger.payable, ledger.promotional)
            );
            let sum = |of: &dyn Fn(&lumbung_openapi::earnings::EarningsLine) -> i64| -> NanoUsd {
                nanos(statement.data.iter().map(of).sum())
            };
            let net =
                |states: &[EarningState]| sum(&|line| if states.contains(&line.state) { line.net.nanos() } else { 0 });
            let given = |state: PromotionalState| {
                sum(&|line| line.promotional.as_ref().filter(|p| p.state == state).map_or(0, |p| p.share.nanos()))
            };
            let both = |one: NanoUsd, other: NanoUsd| nanos(one.nanos() + other.nanos());
            assert_eq!(totals.pending, net(&[EarningState::AwaitingReceipt, EarningState::Pending]));
            assert_eq!(totals.payable, both(net(&[EarningState::Payable]), given(PromotionalState::Payable)));
            assert_eq!(totals.in_transit, both(net(&[EarningState::InTransit]), given(PromotionalState::InTransit)));
            assert_eq!(totals.paid, both(net(&[EarningState::Paid]), given(PromotionalState::Paid)));
            assert_eq!(totals.promotional, given(PromotionalState::Held));
            assert_eq!(totals.refused, given(PromotionalState::Refused));
            let clawed = sum(&|line| line.clawbacks.iter().map(|clawback| clawback.amount.nanos()).sum());
            assert_eq!(totals.clawed_back, clawed);
            let withheld = sum(&|line| if line.state == EarningState::Withheld { line.share.nanos() } else { 0 });
            assert_eq!(totals.withheld, withheld);
            assert_eq!(totals.earned, sum(&|line| line.share.nanos()), "every deduction is explained");
        }
        for client in &self.clients {
            let balance = self.books.store.account_balance(&client.account).await.expect("a balance");
            assert!(balance.promotional <= balance.spendable);
        }
        assert!(self.books.store.balance(&LedgerId::revenue()).await.expect("a balance") >= NanoUsd::ZERO);
    }
}

#[test]
fn whatever_happens_to_earnings_the_statement_adds_up_and_the_books_are_right() {
    let full = std::env::var_os("LUMBUNG_TEST_FULL").is_some();
    let config = ProptestConfig { cases: if full { 512 } else { 48 }, failure_persistence: None, ..Default::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    proptest!(config, |(steps in prop::collection::vec(step(), 1..50))| {
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
                world.assert_sound().await;
            }
            world.books.finish().await;
        });
    });
}
