//! The endpoints that a model answers at. A job goes down a provider's tunnel at the path that the client used, so that
//! both sides read its body by the same rules.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Chat];

    /// Where it is, at the gateway and on a tunnel.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// What the ids of its answers begin with.
    pub const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
        }
    }
}
