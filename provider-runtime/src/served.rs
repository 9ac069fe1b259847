//! What is served: each model with its engine and its slots. Models come and go while the provider runs: one that has left takes
//! nothing new, and its engine goes when its last job has ended.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::parameter::Parameter;
use lumbung_openapi::provider::ModelOffer;

use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::takings::Tally;

/// How often it is looked whether the last job has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One model that is served.
pub struct Served {
    /// The catalogue's id.
    pub model: String,
    /// What answers.
    pub engine: Arc<dyn Engine>,
    /// What it has done.
    pub tally: Tally,
    ask: Mutex<TokenPrice>,
    /// Jobs at a time; 0 once it has left.
    slots: AtomicU32,
    running: AtomicU32,
}

/// A job's place at a model, until it is dropped. The engine stays for as long.
pub struct Slot(Arc<Served>);

impl Slot {
    /// Whose it is.
    pub fn served(&self) -> &Served {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Served {
    /// A model with so many slots (jobs at a time).
    pub fn new(model: String, ask: TokenPrice, engine: Arc<dyn Engine>, slots: u32) -> Self {
        let (ask, slots) = (Mutex::new(ask), AtomicU32::new(slots));
        Self { model, engine, tally: Tally::default(), ask, slots, running: AtomicU32::new(0) }
    }

    /// Takes a slot, unless every one is taken, or the model has left.
    pub fn take_slot(self: &Arc<Self>) -> Result<Slot, Refusal> {
        let slots = self.slot_count();
        let take = |running: u32| (running < slots).then_some(running + 1);
        match self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(Slot(self.clone())),
            Err(_) if slots == 0 => Err(Refusal::Draining),
            Err(_) => Err(Refusal::Busy),
        }
    }

    /// What is asked for its tokens.
    pub fn ask(&self) -> TokenPrice {
        *self.ask.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs at a time.
    pub fn slot_count(&self) -> u32 {
        self.slots.load(Ordering::Acquire)
    }

    /// Jobs that run now; for a while more than there are slots, where those have become fewer.
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Acquire)
    }

    /// From now on it is asked for another price, in so many slots. Jobs that run end as they began.
    pub fn change(&self, ask: TokenPrice, slots: u32) {
        *self.ask.lock().unwrap_or_else(PoisonError::into_inner) = ask;
        self.slots.store(slots, Ordering::Release);
    }

    fn offer(&self) -> ModelOffer {
        let model = self.engine.describe();
        ModelOffer {
            model: self.model.clone(),
            weights_digest: model.weights_digest.clone(),
            quantization: model.quantization.clone(),
            context_length: model.context_length,
            slots: self.slot_count(),
            ask: self.ask(),
            supported_parameters: model.supported.iter().map(|p: Parameter| p.name().to_owned()).collect(),
            resume: model.resume,
        }
    }
}

/// Every model that is served, and what is left of those that were.
#[derive(Default)]
pub struct Models(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    served: Vec<Arc<Served>>,
    /// By id; an engine is there for as long as jobs run.
    left: Vec<(String, Weak<Served>)>,
}

impl Models {
    /// These.
    pub fn new(served: Vec<Served>) -> Self {
        let served = served.into_iter().map(Arc::new).collect();
        Self(Mutex::new(Lists { served, left: Vec::new() }))
    }

    /// Those that are served now.
    pub fn list(&self) -> Vec<Arc<Served>> {
        self.lock().served.clone()
    }

    /// What is offered now.
    pub fn offer(&self) -> Vec<ModelOffer> {
        self.lock().served.iter().map(|served| served.offer()).collect()
    }

    /// The one with that id. Why not: it has left a while ago, or was never there.
    pub fn find(&self, model: &str) -> Result<Arc<Served>, Refusal> {
        let lists = self.lock();
        let was_there = || match lists.left.iter().any(|(id, _)| id == model) {
            true => Refusal::Draining, // a gateway may not know yet
            false => Refusal::BadTicket("The ticket's model is not offered."),
        };
        lists.served.iter().find(|served| served.model == model).cloned().ok_or_else(was_there)
    }

    /// From now on this one is served, too.
    pub fn add(&self, served: Served) {
        self.lock().served.push(Arc::new(served));
    }

    /// From now on it takes no jobs. Those that run are finished. Returns how many do, if it was served.
    pub fn remove(&self, model: &str) -> Option<u32> {
        let mut lists = self.lock();
        let at = lists.served.iter().position(|served| served.model == model)?;
        let served = lists.served.remove(at);
        served.slots.store(0, Ordering::Release);
        lists.left.retain(|(id, rest)| id != model || rest.strong_count() > 0);
        lists.left.push((served.model.clone(), Arc::downgrade(&served)));
        Some(served.running())
    }

    /// Jobs that run now, of every model.
    pub fn running(&self) -> u32 {
        let lists = self.lock();
        let left = lists.left.iter().filter_map(|(_, rest)| Some(rest.upgrade()?.running()));
        lists.served.iter().map(|served| served.running()).chain(left).fold(0, u32::saturating_add)
    }

    /// Waits until no job runs. `false` if one still does when the time is over.
    pub async fn idle_within(&self, limit: Duration) -> bool {
        let idle = async {
            while self.running() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// Waits until the engines of those that have left are gone. `false` if one is still there when the time is over.
    pub async fn gone_within(&self, limit: Duration) -> bool {
        let gone = async {
            while self.lock().left.iter().any(|(_, rest)| rest.strong_count() > 0) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scripted::ScriptedEngine;

    fn model(id: &str, slots: u32) -> Served {
        let engine = ScriptedEngine::parse(r#"[{"match": "*", "reply": "Padi."}]"#).unwrap();
        Served::new(id.into(), TokenPrice::default(), Arc::new(engine), slots)
    }

    #[tokio::test]
    async fn a_model_that_leaves_finishes_what_it_has_and_is_gone() {
        let models = Models::new(vec![model("a", 2), model("b", 1)]);
        let slot = models.find("a").unwrap().take_slot().unwrap();
        assert_eq!(models.remove("a"), Some(1));
        assert_eq!(models.find("a").err(), Some(Refusal::Draining), "a gateway may still ask for it");
        assert!(matches!(models.find("c").err(), Some(Refusal::BadTicket(_))));
        assert_eq!((models.running(), models.remove("a")), (1, None));
        assert!(!models.gone_within(Duration::from_millis(30)).await && slot.served().running() == 1);
        models.add(model("a", 1));
        assert_eq!((models.find("a").unwrap().running(), models.running()), (0, 1), "it is another one");
        drop(slot);
        assert!(models.gone_within(Duration::from_secs(5)).await && models.idle_within(Duration::ZERO).await);
    }

    #[test]
    fn fewer_slots_are_no_slots_until_enough_jobs_have_ended() {
        let models = Models::new(vec![model("a", 2)]);
        let served = models.find("a").unwrap();
        let (first, second) = (served.take_slot().unwrap(), served.take_slot().unwrap());
        assert_eq!(served.take_slot().err(), Some(Refusal::Busy));
        served.change(TokenPrice::default(), 1);
        drop(first);
        assert_eq!(served.take_slot().err(), Some(Refusal::Busy), "the other one still runs");
        drop(second);
        let _slot = served.take_slot().unwrap();
        assert_eq!((served.running(), models.offer()[0].slots), (1, 1));
        models.remove("a");
        assert_eq!(served.take_slot().err(), Some(Refusal::Draining));
    }
}
