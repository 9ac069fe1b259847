//! The threads: those that answer, and one for the books.
//!
//! Requests and tunnels share few threads: where a job's tasks are on one, none of them wakes another thread, which costs
//! more than what they do (a fifth of a request's CPU with two). One for every two cores, because databases, proxies or
//! providers are often beside them. Settling, receipts and everything that nobody waits for has a thread of its own, `books`: a
//! long batch delays no answer, and what the books cost can be told apart.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Handle, Runtime};

/// The name of the thread for the books, where the system shows threads' names.
pub const BOOKS: &str = "books";

/// The threads of a gateway.
pub struct Threads {
    answering: Runtime,
    books: Runtime,
}

impl Threads {
    /// Starts them: so many that answer, one for every two cores if nothing is said.
    pub fn start(answering: Option<u16>) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let answering = match answering.map_or_else(|| cores().div_ceil(2), usize::from) {
            ..=1 => Builder::new_current_thread().enable_all().build()?,
            threads => {
                Builder::new_multi_thread().worker_threads(threads).thread_name("answers").enable_all().build()?
            }
        };
        let books = Builder::new_multi_thread().worker_threads(1).thread_name(BOOKS).enable_all().build()?;
        Ok(Self { answering, books })
    }

    /// Runs the gateway on them to its end; what it does on the thread for the books goes to the handle that it is given.
    pub fn run<F: Future>(self, gateway: impl FnOnce(Handle) -> F) -> F::Output {
        let ended = self.answering.block_on(gateway(self.books.handle().clone()));
        self.books.shutdown_background();
        ended
    }
}
