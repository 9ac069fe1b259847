//! Lines of the log on their way to standard error: each by itself, or many in one write.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

thread_local! {
    /// What [`together`] has gathered on this thread.
    static GATHERED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Where the log is written.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_gathered = GATHERED.with_borrow_mut(|gathered| match gathered {
            Some(lines) => {
                lines.extend_from_slice(line);
                true
            }
            None => false,
        });
        if !is_gathered {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // standard error has no buffer
    }
}

/// Writes what `log` says with one system call: those of a line for each of a few thousand jobs a second cost more than
/// making the lines.
pub fn together(log: impl FnOnce()) {
    GATHERED.set(Some(Vec::with_capacity(16 << 10)));
    log();
    let lines = GATHERED.take().unwrap_or_default();
    let _ = io::stderr().write_all(&lines); // there is nowhere left to say so
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_gathered_while_they_belong_together_and_on_their_own_thread() {
        together(|| {
            for line in ["one\n", "two\n"] {
                Lines.write_all(line.as_bytes()).expect("memory");
            }
            let elsewhere = std::thread::spawn(|| GATHERED.with_borrow(Option::is_none));
            assert!(elsewhere.join().expect("a thread"), "another thread's lines do not wait");
            assert_eq!(GATHERED.with_borrow(Clone::clone).as_deref(), Some(&b"one\ntwo\n"[..]));
        });
        assert!(GATHERED.with_borrow(Option::is_none), "written");
    }
}
