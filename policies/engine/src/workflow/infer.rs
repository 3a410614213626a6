//! Of which type an expression is, as far as that can be told before it is evaluated, and whether what it names is there.

use std::collections::BTreeMap;

use cel::Program;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr};
use sideguard_types::resource::{InputSpec, InputType};

use crate::source::nearest;
use crate::when::check::Fault;

/// Names that stand for values everywhere in a workflow.
const NAMES: [&str; 3] = ["input", "steps", "run"];
/// What can be asked of a step.
const FIELDS: [&str; 3] = ["result", "state", "error"];
/// What can be asked of a run.
const OF_RUN: [&str; 3] = ["id", "workflow", "tenant"];

/// A type; `Any` where it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
    Null,
    Timestamp,
    Duration,
    /// A moment, or a text that says one: wanted, never inferred.
    Moment,
}

impl Type {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
            Self::Null => "null",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Moment => "a timestamp or text",
        }
    }

    const fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    fn is_within(self, wanted: Self) -> bool {
        match wanted {
            Self::Any => true,
            Self::Moment => matches!(self, Self::Any | Self::Timestamp | Self::String),
            wanted => self == wanted || self == Self::Any,
        }
    }
}

impl From<InputType> for Type {
    fn from(kind: InputType) -> Self {
        match kind {
            InputType::String => Self::String,
            InputType::Int => Self::Int,
            // What JSON writes as `3` is an int.
            InputType::Double | InputType::Any => Self::Any,
            InputType::Bool => Self::Bool,
            InputType::List => Self::List,
            InputType::Map => Self::Map,
        }
    }
}

/// What an expression at one place may name.
#[derive(Debug, Clone)]
pub(super) struct Language<'l> {
    pub(super) inputs: &'l BTreeMap<String, InputSpec>,
    /// The steps that have ended by then, with the types of their results.
    pub(super) before: BTreeMap<&'l str, Type>,
    /// All steps.
    pub(super) steps: &'l [&'l str],
    /// Whether there are `item` and `index`.
    pub(super) item: bool,
    /// The type of `result`, where there is one.
    pub(super) result: Option<Type>,
}

impl Language<'_> {
    pub(super) fn names(&self) -> Vec<&'static str> {
        let item = ["item", "index"].into_iter().filter(|_| self.item);
        NAMES.into_iter().chain(item).chain(self.result.map(|_| "result")).collect()
    }
}

/// Checks what an expression names, and that it can be of the type that is wanted.
pub(super) fn infer(program: &Program, language: &Language<'_>, wanted: Type) -> Result<(), Fault> {
    let root = program.expression();
    let found = Walk { language, scope: Vec::new() }.expression(root)?;
    if found.is_within(wanted) {
        return Ok(());
    }
    Err(fault(
        root,
        format!("the expression is of type {}, where {} is wanted", found.as_str(), wanted.as_str()),
    ))
}

fn fault(at: &IdedExpr, message: String) -> Fault {
    Fault { node: Some(at.id), message, hint: None }
}

fn unknown<'k>(at: &IdedExpr, what: &str, name: &str, known: impl Iterator<Item = &'k str> + Clone) -> Fault {
    let hint = nearest(name, known.clone()).map(|meant| format!("did you mean `{meant}`?")).or_else(|| {
        let known: Vec<&str> = known.collect();
        Some(if known.is_empty() {
            format!("no {what}s are declared")
        } else {
            format!("known: {}", known.join(", "))
        })
    });
    Fault { node: Some(at.id), message: format!("there is no {what} `{name}`"), hint }
}

struct Walk<'w, 'l> {
    language: &'w Language<'l>,
    /// Names that loops bring, with their types.
    scope: Vec<(&'w str, Type)>,
}

impl<'w> Walk<'w, '_> {
    fn expression(&mut self, at: &'w IdedExpr) -> Result<Type, Fault> {
        match &at.expr {
            Expr::Literal(literal) => Ok(literal_type(literal)),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.select(at, select),
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => {
                list.elements.iter().try_for_each(|item| self.expression(item).map(drop))?;
                Ok(Type::List)
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(pair) = &entry.expr {
                        self.expression(&pair.key)?;
                        self.expression(&pair.value)?;
                    }
                }
                Ok(Type::Map)
            }
            Expr::Comprehension(each) => self.comprehension(each),
            Expr::Struct(_) | Expr::Unspecified => Ok(Type::Any),
        }
    }

    fn bound(&self, name: &str) -> Option<Type> {
        self.scope.iter().rev().find(|(bound, _)| *bound == name).map(|(_, kind)| *kind)
    }

    /// Whether an expression is one of the workflow's own names.
    fn is(&self, at: &IdedExpr, name: &str) -> bool {
        matches!(&at.expr, Expr::Ident(own) if own == name) && self.bound(name).is_none()
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<Type, Fault> {
        if let Some(kind) = self.bound(name) {
            return Ok(kind);
        }
        match name {
            "input" | "run" => Ok(Type::Map),
            "index" => Ok(Type::Int),
            "result" => Ok(self.language.result.unwrap_or(Type::Any)),
            "steps" => {
                let mut fault = fault(at, "`steps` is not a value by itself".to_owned());
                fault.hint = Some("name a step: `steps.ID.result`".to_owned());
                Err(fault)
            }
            _ => Ok(Type::Any),
        }
    }

    fn select(&mut self, at: &'w IdedExpr, select: &'w SelectExpr) -> Result<Type, Fault> {
        let found = if self.is(&select.operand, "input") {
            self.input(at, &select.field)?
        } else if self.is(&select.operand, "steps") {
            self.step(at, &select.field)?;
            Type::Map
        } else if self.is(&select.operand, "run") {
            let known = OF_RUN.contains(&select.field.as_str());
            known
                .then_some(Type::String)
                .ok_or_else(|| unknown(at, "fact of a run", &select.field, OF_RUN.into_iter()))?
        } else if let Some(id) = self.of_step(&select.operand) {
            let result = self.step(&select.operand, id)?;
            match select.field.as_str() {
                "result" => result,
                "state" => Type::String,
                "error" => Type::Any,
                other => return Err(unknown(at, "fact of a step", other, FIELDS.into_iter())),
            }
        } else {
            let operand = self.expression(&select.operand)?;
            if !matches!(operand, Type::Any | Type::Map) {
                let what = operand.as_str();
                return Err(fault(at, format!("a {what} has no field `{}`", select.field)));
            }
            Type::Any
        };
        Ok(if select.test { Type::Bool } else { found })
    }

    /// The step that `steps.ID` names.
    fn of_step(&self, at: &'w IdedExpr) -> Option<&'w str> {
        match &at.expr {
            Expr::Select(select) if self.is(&select.operand, "steps") => Some(&select.field),
            _ => None,
        }
    }

    fn input(&self, at: &IdedExpr, name: &str) -> Result<Type, Fault> {
        let inputs = self.language.inputs;
        let spec =
            inputs.get(name).ok_or_else(|| unknown(at, "input", name, inputs.keys().map(String::as_str)))?;
        // What may be missing may be null.
        let sure = spec.required || !spec.default.is_null();
        Ok(if sure { spec.kind.into() } else { Type::Any })
    }

    fn step(&self, at: &IdedExpr, id: &str) -> Result<Type, Fault> {
        if let Some(result) = self.language.before.get(id) {
            return Ok(*result);
        }
        if self.language.steps.contains(&id) {
            let mut fault = fault(at, format!("the step `{id}` has not ended by then"));
            fault.hint = Some(format!("add `{id}` to `needs`"));
            return Err(fault);
        }
        Err(unknown(at, "step", id, self.language.steps.iter().copied()))
    }

    fn call(&mut self, at: &'w IdedExpr, call: &'w CallExpr) -> Result<Type, Fault> {
        let mut types = Vec::with_capacity(call.args.len());
        if let Some(target) = &call.target {
            self.expression(target)?;
        }
        for (number, arg) in call.args.iter().enumerate() {
            // `steps["id"]` could name anything.
            if number == 0 && call.func_name == "_[_]" && self.is(arg, "steps") {
                let mut fault = fault(arg, "steps are named, not looked up".to_owned());
                fault.hint = Some("write `steps.ID.result`".to_owned());
                return Err(fault);
            }
            types.push(self.expression(arg)?);
        }
        result(at, &call.func_name, &types)
    }

    fn comprehension(&mut self, each: &'w ComprehensionExpr) -> Result<Type, Fault> {
        let over = self.expression(&each.iter_range)?;
        if !matches!(over, Type::Any | Type::List | Type::Map) {
            return Err(fault(&each.iter_range, format!("a {} cannot be gone through", over.as_str())));
        }
        let sum = self.expression(&each.accu_init)?;
        let before = self.scope.len();
        self.scope.push((&each.iter_var, Type::Any));
        self.scope.extend(each.iter_var2.as_deref().map(|name| (name, Type::Any)));
        self.scope.push((&each.accu_var, sum));
        self.expression(&each.loop_cond)?;
        self.expression(&each.loop_step)?;
        let result = self.expression(&each.result);
        self.scope.truncate(before);
        result
    }
}

const fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// The type of a call, by its function and the types of what it is given.
fn result(at: &IdedExpr, function: &str, types: &[Type]) -> Result<Type, Fault> {
    let wrong = |operator: &str, types: &[Type]| {
        let types: Vec<&str> = types.iter().map(|kind| kind.as_str()).collect();
        Err(fault(at, format!("`{operator}` does not take {}", types.join(" and "))))
    };
    let known = |kind: &Type| *kind != Type::Any;
    Ok(match (function, types) {
        ("_&&_" | "_||_" | "!_", types) => {
            match types.iter().find(|kind| known(kind) && **kind != Type::Bool) {
                Some(_) => return wrong(function.trim_matches('_'), types),
                None => Type::Bool,
            }
        }
        ("_?_:_", [test, yes, no]) => {
            if known(test) && *test != Type::Bool {
                return wrong("?", &[*test]);
            }
            if yes == no { *yes } else { Type::Any }
        }
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => {
            let comparable = a == b && !matches!(a, Type::List | Type::Map | Type::Null);
            if known(a) && known(b) && !comparable && !(a.is_number() && b.is_number()) {
                return wrong(function.trim_matches('_'), types);
            }
            Type::Bool
        }
        ("_==_" | "_!=_", [a, b]) => {
            let alike = a == b || (a.is_number() && b.is_number()) || [a, b].contains(&&Type::Null);
            if known(a) && known(b) && !alike {
                return wrong(function.trim_matches('_'), types);
            }
            Type::Bool
        }
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => {
            let timed = |kind: &Type| matches!(kind, Type::Timestamp | Type::Duration);
            if !known(a) || !known(b) || timed(a) || timed(b) {
                return Ok(Type::Any);
            }
            let adds = function == "_+_" && matches!(a, Type::String | Type::List | Type::Bytes);
            if a != b || !(a.is_number() || adds) {
                return wrong(function.trim_matches('_'), types);
            }
            *a
        }
        ("-_", [a]) => *a,
        ("@in", [_, list]) if known(list) && !matches!(list, Type::List | Type::Map) => {
            return wrong("in", types);
        }
        ("@in" | "has" | "contains" | "startsWith" | "endsWith" | "matches" | "bool", _) => Type::Bool,
        ("size" | "int", _) => Type::Int,
        ("double", _) => Type::Double,
        ("uint", _) => Type::Uint,
        ("string", _) => Type::String,
        ("timestamp", _) => Type::Timestamp,
        ("duration", _) => Type::Duration,
        _ => Type::Any,
    })
}
