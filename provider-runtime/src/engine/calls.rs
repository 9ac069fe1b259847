//! Ids of tool calls, where an engine has none of its own: the same on whichever provider a call is made.

use sha2::{Digest, Sha256};

/// Names calls.
#[derive(Clone, Debug)]
pub struct CallIds {
    /// The same for every provider that works on the job.
    pub job: String,
    /// Which choice.
    pub choice: u8,
    /// Mistral's templates take ids of nine characters only.
    pub short: bool,
}

impl CallIds {
    /// The id of a call, from 0.
    pub fn of(&self, call: u32) -> String {
        let digest = Sha256::new()
            .chain_update(b"lumbung call 1")
            .chain_update(self.job.as_bytes())
            .chain_update([self.choice])
            .chain_update(call.to_le_bytes())
            .finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.short {
            true => hex[..9].to_owned(),
            false => format!("call_{}", &hex[..24]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_wherever_a_call_is_made() {
        let ids = CallIds { job: "job_1".into(), choice: 0, short: false };
        assert_eq!(ids.of(0), ids.clone().of(0));
        assert_eq!(ids.of(0).len(), 29);
        let others = [
            ids.of(1),
            CallIds { choice: 1, ..ids.clone() }.of(0),
            CallIds { job: "job_2".into(), ..ids.clone() }.of(0),
        ];
        assert!(others.iter().all(|other| *other != ids.of(0)));
        assert_eq!(CallIds { short: true, ..ids }.of(0).len(), 9);
    }
}
