//! Grammars: which tokens may come next, so that an answer has the form that was asked for.
//!
//! `llguidance` keeps the state, a function of the tokens so far and of nothing else; here it is given grammars whose every
//! schema has gone through [`super::schema`]. Compiling is bounded in size and time, and off the threads that serve.

use std::sync::Arc;
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use tokio::sync::Semaphore;

use super::vocabulary::Vocabulary;

/// Grammars that are compiled at once.
const AT_ONCE: usize = 2;
/// How long one may take. The limits below end it soon after.
const WITHIN: Duration = Duration::from_secs(5);

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    permits: Arc<Semaphore>,
    /// As the vocabulary has them.
    ends: Vec<u32>,
}

/// Why there is no grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Too large, or in contradiction with itself.
    #[error("it is too complex to be enforced, or nothing can match it")]
    Refused,
    /// The time for it is over.
    #[error("it takes too long to prepare")]
    TooSlow,
    /// So many requests bring grammars that this one had to wait too long.
    #[error("too many grammars are being prepared")]
    Busy,
}

/// The grammar engine gave up in mid-answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grammar has become too complex to go on")]
pub struct Lost;

impl Grammars {
    /// For a vocabulary. `None` where it names no end of an answer, without which nothing can be complete.
    pub fn new(vocabulary: &Vocabulary) -> Option<Self> {
        let ends = vocabulary.special_ends();
        let words: Vec<Vec<u8>> = (0..vocabulary.len() as u32).map(|id| word(vocabulary, id)).collect();
        let info = TokRxInfo::new(words.len() as u32, *ends.first()?);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).ok()?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_grammar_size: 100_000,
            // A kilobyte or two each.
            max_lexer_states: 50_000,
            // Errors would quote the answer.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Some(Self { factory, permits: Arc::new(Semaphore::new(AT_ONCE)), ends })
    }

    /// Compiles a grammar in llguidance's variant of Lark.
    pub async fn compile(self: &Arc<Self>, lark: String) -> Result<Grammar, GrammarError> {
        let permit = tokio::time::timeout(WITHIN, Arc::clone(&self.permits).acquire_owned());
        // The semaphore is never closed.
        let Ok(Ok(permit)) = permit.await else { return Err(GrammarError::Busy) };
        let grammars = Arc::clone(self);
        let compiling = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            grammars.compile_here(lark)
        });
        match tokio::time::timeout(WITHIN, compiling).await {
            Ok(Ok(compiled)) => compiled,
            // It panicked, which can only be for what it was given.
            Ok(Err(_)) => Err(GrammarError::Refused),
            Err(_) => Err(GrammarError::TooSlow),
        }
    }

    fn compile_here(&self, lark: String) -> Result<Grammar, GrammarError> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(lark));
        let mut matcher = Matcher::new(parser);
        let warnings = matcher.grammar_warnings();
        if !warnings.is_empty() {
            tracing::debug!(warnings = warnings.len(), "a grammar is refused because of warnings");
            return Err(GrammarError::Refused);
        }
        // A grammar of which nothing can come is found here and not in mid-answer.
        match matcher.compute_mask() {
            Ok(mask) if !mask.is_zero() => Ok(Grammar { matcher, ends: self.ends.clone().into() }),
            _ => Err(GrammarError::Refused),
        }
    }
}

/// A token's bytes for the grammar engine: a control token is a name of its own, which no text matches.
fn word(vocabulary: &Vocabulary, id: u32) -> Vec<u8> {
    if vocabulary.is_special(id) || vocabulary.is_end(id) {
        let name = vocabulary.name(id);
        // What has no name is no token.
        return if name.is_empty() { Vec::new() } else { [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat() };
    }
    vocabulary.shown(id).to_vec()
}

/// A compiled grammar, and where it stands.
pub struct Grammar {
    matcher: Matcher,
    ends: Arc<[u32]>,
}

impl Grammar {
    /// One of its own for each choice.
    pub fn copy(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), ends: Arc::clone(&self.ends) }
    }

    /// Which tokens may come next: bit by bit, by id.
    pub fn allowed(&mut self) -> Result<SimpleVob, Lost> {
        self.matcher.compute_mask_or_eos().map_err(|_| Lost)
    }

    /// Takes the next token. `false` if it does not belong here.
    pub fn accept(&mut self, token: u32) -> bool {
        self.matcher.try_consume_tokens(&[token]).is_ok_and(|taken| taken == 1)
    }

    /// Takes bytes that have come already, in whatever tokens. `false` if they do not belong here.
    pub fn accept_bytes(&mut self, bytes: &[u8]) -> bool {
        let Ok(environment) = self.matcher.tok_env() else { return false };
        let tokens = environment.tok_trie().greedy_tokenize(bytes);
        self.matcher.try_consume_tokens(&tokens).is_ok_and(|taken| taken == tokens.len())
    }

    /// Whether nothing can come any more.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// The tokens with which an answer ends.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}
