//! The usage of a finished request, as its answer reports it.

use crate::domain::quantity::{Class, Quantities};

/// Memory of a hosted container; it decides the price of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerMemory {
    /// One gibibyte, what a request gets that names none.
    #[default]
    G1,
    /// Four gibibytes.
    G4,
    /// Sixteen gibibytes.
    G16,
    /// Sixty-four gibibytes.
    G64,
}

impl ContainerMemory {
    /// The memory by its name on the wire; `None` if there is no such size.
    pub fn named(name: &str) -> Option<Self> {
        [Self::G1, Self::G4, Self::G16, Self::G64].into_iter().find(|memory| memory.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G1 => "1g",
            Self::G4 => "4g",
            Self::G16 => "16g",
            Self::G64 => "64g",
        }
    }

    /// The class that a session of such a container is of.
    pub const fn session(self) -> Class {
        match self {
            Self::G1 => Class::Container1gSessions,
            Self::G4 => Class::Container4gSessions,
            Self::G16 => Class::Container16gSessions,
            Self::G64 => Class::Container64gSessions,
        }
    }
}

/// The use of upstream's hosted tools by one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolUse {
    /// Billed calls, and the tokens of the image generation tool, which are priced at
    /// the tool's own model. An answer does not say which tool searched the web, so all
    /// searches are `web_search_calls` here.
    pub quantities: Quantities,
    /// Distinct containers that code or shell calls ran in. An answer does not say their
    /// memory, so they are of no class here.
    pub containers: u64,
}

/// The usage of a finished request: by its model, and by hosted tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens priced at the model that served the request.
    pub tokens: Quantities,
    /// Hosted tools, each with a fee of its own.
    pub tools: ToolUse,
    /// Input tokens of the largest turn, if the request took several; `None` if
    /// all input was read at once. It decides whether long-context rates apply.
    pub largest_prompt: Option<u64>,
}
