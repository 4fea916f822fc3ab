//! Containers and vector stores, as upstream shows them.

use serde_json::Value;

use crate::domain::usage::ContainerMemory;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Whether it lives no more.
    pub is_over: bool,
    /// Its memory, if the answer names one that is known.
    pub memory: Option<ContainerMemory>,
    /// How long it lives after its last use, in seconds.
    pub idle_s: Option<i64>,
    /// When it was last used, in Unix seconds.
    pub active_s: Option<i64>,
}

/// A vector store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorStore {
    /// Its id.
    pub id: String,
    /// Whether it has expired.
    pub is_over: bool,
    /// What it keeps, in bytes.
    pub bytes: u64,
    /// Files that are still being taken up.
    pub pending: u64,
}

impl Container {
    /// Reads an answer; `None` if it is no container.
    ///
    /// ```
    /// use spendguard::protocol::openai::hosted::Container;
    /// let shown = br#"{"id":"cntr_1","object":"container","status":"expired","last_active_at":5}"#;
    /// let container = Container::read(shown).expect("it is one");
    /// assert_eq!((container.is_over, container.active_s), (true, Some(5)));
    /// ```
    pub fn read(body: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(body).ok()?;
        let minutes = said["expires_after"]["minutes"].as_i64().filter(|minutes| *minutes > 0);
        Some(Self {
            id: id(&said)?,
            is_over: matches!(said["status"].as_str(), Some("expired" | "deleted")),
            memory: said["memory_limit"].as_str().and_then(ContainerMemory::named),
            idle_s: minutes.map(|minutes| minutes.saturating_mul(60)),
            active_s: said["last_active_at"].as_i64(),
        })
    }
}

impl VectorStore {
    /// The id in an answer that shows one, whatever else it says.
    pub fn id_in(body: &[u8]) -> Option<String> {
        id(&serde_json::from_slice(body).ok()?)
    }

    /// The most that it keeps in bytes, where each file that is being taken up adds so many.
    pub fn bytes_max(&self, of_file: u64) -> u64 {
        self.bytes.saturating_add(self.pending.saturating_mul(of_file))
    }

    /// Reads an answer; `None` if it is no vector store, or does not say what it keeps.
    pub fn read(body: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(body).ok()?;
        Some(Self {
            id: id(&said)?,
            is_over: said["status"] == "expired",
            bytes: said["usage_bytes"].as_u64()?,
            pending: said["file_counts"]["in_progress"].as_u64().unwrap_or(0),
        })
    }
}

fn id(said: &Value) -> Option<String> {
    said["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}
