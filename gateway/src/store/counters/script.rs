//! A script that Redis keeps: sent whole once, named by its digest from then on.

use std::sync::OnceLock;

use redis::{ErrorKind, FromRedisValue, RedisResult, ServerErrorKind};

use crate::store::Redis;

/// A script.
pub(super) struct Script {
    text: &'static str,
    /// As Redis names it.
    digest: OnceLock<String>,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, digest: OnceLock::new() }
    }

    /// Runs it over these keys, which must share a hash tag.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        redis: &Redis,
        keys: &[String],
        arguments: &[String],
    ) -> RedisResult<T> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        if let Some(digest) = self.digest.get() {
            match redis.query(&command("EVALSHA", digest)).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
                answer => return answer,
            }
        } else {
            let mut digest = redis::cmd("EVAL");
            digest.arg("return redis.sha1hex(ARGV[1])").arg(1).arg(keys.first()).arg(self.text);
            let _ = self.digest.set(redis.query(&digest).await?); // another caller may have been first
        }
        redis.query(&command("EVAL", self.text)).await
    }
}
