//! An expression of a workflow, and what it is evaluated over.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Program, Value as Cel};
use serde_json::Value;

use super::infer::{Language, Type, infer};
use super::json;
use crate::when::check::{Cost, Names};
use crate::when::{self, BadExpression, ENV, MAX_LOOPED_ARGS, describe};

/// What can be large of what an expression may name.
const LARGE: [&str; 4] = ["input", "steps", "item", "result"];

/// A compiled expression.
pub struct Expression {
    program: Program,
    text: Box<str>,
    cost: Cost,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'v> {
    /// Its name.
    pub id: &'v str,
    /// Its state, as it is written.
    pub state: &'v str,
    /// What it came to.
    pub result: &'v Value,
    /// Why it failed.
    pub error: Option<&'v str>,
}

/// What all expressions of a run may name at one moment. Read by name, and made once.
pub struct Facts<'v> {
    input: &'v Value,
    run: Value,
    steps: Vec<Outcome<'v>>,
    made: [OnceLock<Box<dyn Val>>; 3],
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "facts of {} steps", self.steps.len())
    }
}

impl<'v> Facts<'v> {
    /// Facts of a run: its input, what is told of itself, and the steps that have ended.
    #[must_use]
    pub fn new(input: &'v Value, run: Value, steps: Vec<Outcome<'v>>) -> Self {
        Self { input, run, steps, made: [const { OnceLock::new() }; 3] }
    }

    fn steps(&self) -> Cel {
        let step = |step: &Outcome<'v>| {
            let error = step.error.map_or(Cel::Null, Cel::from);
            let fields =
                [("state", Cel::from(step.state)), ("result", json::to_cel(step.result)), ("error", error)];
            (step.id, json::map(fields.into_iter()))
        };
        json::map(self.steps.iter().map(step))
    }

    fn weight(&self) -> usize {
        let steps = self.steps.iter().map(|step| json::weight(step.result));
        steps.fold(json::weight(self.input), usize::saturating_add)
    }
}

/// What one place in a workflow may name besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local<'v> {
    /// The item of a `forEach` and its number.
    pub item: Option<(&'v Value, usize)>,
    /// What a step that is undone came to.
    pub result: Option<&'v Value>,
}

struct Scope<'s, 'v> {
    facts: &'s Facts<'v>,
    local: Local<'s>,
    made: [OnceLock<Box<dyn Val>>; 3],
}

fn lent<'b>(made: &'b OnceLock<Box<dyn Val>>, value: impl FnOnce() -> Cel) -> Option<CowVal<'b, 'b>> {
    if made.get().is_none() {
        // Whoever was faster has made the same.
        let _ = made.set(Box::<dyn Val>::try_from(value()).ok()?);
    }
    made.get().map(|value| CowVal::Borrowed(value.as_ref()))
}

impl VariableResolver for Scope<'_, '_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let [input, steps, run] = &self.facts.made;
        let [item, index, result] = &self.made;
        match variable {
            "input" => lent(input, || json::to_cel(self.facts.input)),
            "steps" => lent(steps, || self.facts.steps()),
            "run" => lent(run, || json::to_cel(&self.facts.run)),
            "item" => self.local.item.and_then(|(value, _)| lent(item, || json::to_cel(value))),
            "index" => self
                .local
                .item
                .and_then(|(_, at)| lent(index, || Cel::Int(i64::try_from(at).unwrap_or(i64::MAX)))),
            "result" => self.local.result.and_then(|value| lent(result, || json::to_cel(value))),
            _ => None,
        }
    }
}

impl Expression {
    /// Compiles an expression that is to come to a value of a type.
    pub(super) fn compile(text: &str, language: &Language<'_>, wanted: Type) -> Result<Self, BadExpression> {
        let known = language.names();
        let (program, cost) = when::program(text, Names { known: &known, large: &LARGE })?;
        infer(&program, language, wanted).map_err(|fault| when::placed(fault, &program, text))?;
        Ok(Self { program, text: text.trim().into(), cost })
    }

    fn value(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<Cel, String> {
        if self.cost == Cost::Quadratic {
            let item = local.item.map_or(0, |(item, _)| json::weight(item));
            let all =
                facts.weight().saturating_add(item).saturating_add(local.result.map_or(0, json::weight));
            if all > MAX_LOOPED_ARGS {
                let why = format!("a loop over more than {MAX_LOOPED_ARGS} bytes would take too long");
                return Err(self.failed(&why));
            }
        }
        let scope = Scope { facts, local, made: [const { OnceLock::new() }; 3] };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&scope);
        self.program.execute(&context).map_err(|error| self.failed(&describe(&error)))
    }

    /// What it comes to.
    ///
    /// # Errors
    /// When it cannot be evaluated. The message has names and types, no values.
    pub fn evaluate(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<Value, String> {
        let value = json::from_cel(&self.value(facts, local)?).map_err(|why| self.failed(&why))?;
        json::fits(&value).map_err(|why| self.failed(&why))?;
        Ok(value)
    }

    /// Whether it is true.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and when it is neither true nor false.
    pub fn holds(&self, facts: &Facts<'_>, local: Local<'_>) -> Result<bool, String> {
        match self.value(facts, local)? {
            Cel::Bool(holds) => Ok(holds),
            other => Err(self.failed(&format!("the result is {}, not true or false", other.type_of()))),
        }
    }

    fn failed(&self, why: &str) -> String {
        format!("the expression `{}` cannot be evaluated: {why}", self.text)
    }
}
