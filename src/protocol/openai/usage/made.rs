//! The objects that an answer created at upstream: items and containers, by their ids.

use crate::protocol::openai::json::Raw;

/// Items of one answer that are remembered; more than any answer has.
const ITEMS_MAX: usize = 512;
/// Containers of one answer that are remembered.
const CONTAINERS_MAX: usize = 64;

/// The objects that upstream created during an answer, each listed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Output items that can be referred to.
    pub items: Vec<MadeItem>,
    /// Containers that code or shell calls ran in.
    pub containers: Vec<String>,
}

/// An output item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeItem {
    /// Its id.
    pub id: String,
    /// Whether the model wrote all of it, so that it is no larger than the output.
    pub is_output: bool,
}

impl Made {
    pub(super) fn item(&mut self, id: Raw<'_>, kind: Option<&str>) {
        let Some(id) = id.string().filter(|id| !id.is_empty()) else { return };
        let written = ["message", "reasoning", "function_call", "custom_tool_call", "computer_call"];
        let is_output = kind.is_some_and(|kind| written.contains(&kind));
        self.add_item(MadeItem { id: id.into_owned(), is_output });
    }

    pub(super) fn container(&mut self, id: Option<&str>) {
        if let Some(id) = id {
            self.add_container(id.to_owned());
        }
    }

    /// Adds the objects of another part of the same answer.
    pub(in crate::protocol::openai) fn merge(&mut self, other: Self) {
        other.items.into_iter().for_each(|item| self.add_item(item));
        other.containers.into_iter().for_each(|id| self.add_container(id));
    }

    fn add_item(&mut self, item: MadeItem) {
        if self.items.len() < ITEMS_MAX && self.items.iter().all(|known| known.id != item.id) {
            self.items.push(item);
        }
    }

    fn add_container(&mut self, id: String) {
        if self.containers.len() < CONTAINERS_MAX && !self.containers.contains(&id) {
            self.containers.push(id);
        }
    }
}
