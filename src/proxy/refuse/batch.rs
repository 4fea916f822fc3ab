//! Refusals of a batch: those of its lines, and those beside its own holds.

use super::{Named, Refusal};
use crate::domain::ObjectReference;

impl Refusal {
    /// The same where the model or the object is that of a line of a batch's file.
    #[must_use]
    pub fn of_line(mut self, line: u64) -> Self {
        if let Self::ModelNotAllowed(_, why) = &mut self {
            *why = format!("{why}, which line {line} of the file names").into();
        }
        if let Self::NotPriced(_, known) = &mut self {
            *known = Some(line);
        }
        if let Self::ObjectNotFound(_, named) = &mut self {
            *named = Named::InLine(line);
        }
        self
    }

    /// The same where objects were asked for that lines of a batch's file name: `named`, each in
    /// the line of its place.
    #[must_use]
    pub fn of_line_that_names(self, named: &[ObjectReference], lines: &[u64]) -> Self {
        let Self::ObjectNotFound(of, _) = &self else { return self };
        match named.iter().position(|named| named == of).and_then(|at| lines.get(at)) {
            Some(line) => self.of_line(*line),
            None => self,
        }
    }

    /// The same where the other holds in the way are of the same request: these don't end before
    /// it is served.
    #[must_use]
    pub fn beside_own_holds(self) -> Self {
        if let Self::Denied(denial, levers) = self {
            return Self::Denied(denial.beside_own_holds(), levers);
        }
        self
    }
}
