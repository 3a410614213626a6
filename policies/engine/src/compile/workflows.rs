//! What may stand in a workflow: what [`crate::workflow`] says of it, with places in the text.

use sideguard_types::resource::WorkflowSpec;

use super::Checks;
use super::rules::inside;
use crate::source::{Severity, Step};
use crate::workflow::{Place, Workflow};

/// Checks that it can be run.
pub(super) fn check(checks: &mut Checks<'_>, spec: &WorkflowSpec) {
    let Err(faults) = Workflow::compile(spec) else { return };
    let document = checks.document();
    for fault in faults {
        let path: Vec<Step<'_>> = fault
            .path
            .iter()
            .map(|place| match place {
                Place::Key(key) => Step::Key(key),
                Place::Item(at) => Step::Item(*at),
            })
            .collect();
        let mut finding = document.finding(Severity::Error, fault.code, &path, fault.message);
        if let (Some((line, column)), Some(node)) = (fault.within, document.node(&path)) {
            let at = inside(node, line, column, document.page().text());
            finding = document.page().finding(at, fault.code, finding.message, None);
        }
        finding.hint = fault.hint;
        checks.push(finding);
    }
}
