//! The kinds that a cluster's users write. A further kind is one line in [`KINDS`].

use schemars::{JsonSchema, Schema, SchemaGenerator};
use sideguard_types::resource::{
    AgentSpec, BudgetSpec, PolicySpec, ToolCatalogSpec, UpstreamSpec, WorkerPoolSpec,
};

/// The API group of all of them.
pub const GROUP: &str = "sideguard.dev";
/// Its version.
pub const VERSION: &str = "v1";

/// All of them.
pub const KINDS: [Kind; 6] = [
    Kind::new::<PolicySpec>("Policy", "policies", &[("Default", "string", ".spec.default_decision")]),
    Kind::new::<BudgetSpec>("Budget", "budgets", &[]),
    Kind::new::<AgentSpec>("Agent", "agents", &[]),
    Kind::new::<ToolCatalogSpec>("ToolCatalog", "toolcatalogs", &[]),
    Kind::new::<UpstreamSpec>("Upstream", "upstreams", &[("URL", "string", ".spec.baseUrl")]),
    Kind::new::<WorkerPoolSpec>("WorkerPool", "workerpools", &[]),
];

/// A column of `kubectl get`: its head, type and JSON path.
pub type Column = (&'static str, &'static str, &'static str);

/// One kind.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name, such as `Policy`.
    pub name: &'static str,
    /// Its name in addresses, such as `policies`.
    pub plural: &'static str,
    /// Columns of its own.
    pub columns: &'static [Column],
    pub(crate) spec: fn(&mut SchemaGenerator) -> Schema,
}

impl Kind {
    const fn new<Spec: JsonSchema>(
        name: &'static str,
        plural: &'static str,
        columns: &'static [Column],
    ) -> Self {
        Self { name, plural, columns, spec: SchemaGenerator::subschema_for::<Spec> }
    }

    /// The kind of a name, in whatever case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
    }
}
