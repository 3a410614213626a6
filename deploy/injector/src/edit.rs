//! A JSON patch in the making (RFC 6902): each change is made to a copy of the pod and written down as an operation, so that
//! later ones find things where they are by then.
//!
//! Only what is named is touched: the pod is never read into types and written again, which would lose the fields that the
//! types do not know. What is already as wanted makes no operation.

use serde_json::{Map, Value, json};

/// A pod and the operations that made it of another one.
#[derive(Debug)]
pub(crate) struct Edit {
    pod: Value,
    operations: Vec<Value>,
}

impl Edit {
    pub(crate) fn new(pod: Value) -> Self {
        Self { pod, operations: Vec::new() }
    }

    /// The pod as it is by now.
    pub(crate) fn pod(&self) -> &Value {
        &self.pod
    }

    pub(crate) fn into_operations(self) -> Vec<Value> {
        self.operations
    }

    /// What is at a place; null counts as nothing, as it does for the API server.
    pub(crate) fn at(&self, path: &str) -> Option<&Value> {
        self.pod.pointer(path).filter(|value| !value.is_null())
    }

    /// Sees to it that there is a map at a place; the one around it is there.
    pub(crate) fn map(&mut self, path: &str) {
        if self.at(path).is_none() {
            self.put(path, Value::Object(Map::new()));
        }
    }

    /// Sees to it that there is a list at a place; the map around it is there.
    pub(crate) fn list(&mut self, path: &str) {
        if self.at(path).is_none() {
            self.put(path, Value::Array(Vec::new()));
        }
    }

    /// Puts a value into a map, in the place of another one if need be.
    pub(crate) fn put(&mut self, path: &str, value: Value) {
        let old = self.pod.pointer(path);
        if old == Some(&value) {
            return;
        }
        if let Some(old) = old {
            self.operations.push(json!({"op": "test", "path": path, "value": old}));
        }
        let Some((parent, key)) = path.rsplit_once('/') else { return };
        let Some(map) = self.pod.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
        map.insert(plain(key), value.clone());
        self.operations.push(json!({"op": "add", "path": path, "value": value}));
    }

    /// Puts a value at the end of a list.
    pub(crate) fn push(&mut self, path: &str, value: Value) {
        let Some(list) = self.pod.pointer_mut(path).and_then(Value::as_array_mut) else { return };
        list.push(value.clone());
        self.operations.push(json!({"op": "add", "path": format!("{path}/-"), "value": value}));
    }

    /// Puts a value into a list, before what is there.
    pub(crate) fn insert(&mut self, path: &str, index: usize, value: Value) {
        let Some(list) = self.pod.pointer_mut(path).and_then(Value::as_array_mut) else { return };
        if index > list.len() {
            return;
        }
        list.insert(index, value.clone());
        self.operations.push(json!({"op": "add", "path": format!("{path}/{index}"), "value": value}));
    }

    /// Takes a named thing out of a list.
    pub(crate) fn remove(&mut self, path: &str, index: usize) {
        self.expect_name(path, index);
        let Some(list) = self.pod.pointer_mut(path).and_then(Value::as_array_mut) else { return };
        if index < list.len() {
            list.remove(index);
            self.operations.push(json!({"op": "remove", "path": format!("{path}/{index}")}));
        }
    }

    /// Has the patch fail where the thing in a list is not the one that was looked at.
    pub(crate) fn expect_name(&mut self, path: &str, index: usize) {
        let path = format!("{path}/{index}/name");
        if let Some(name) = self.pod.pointer(&path) {
            self.operations.push(json!({"op": "test", "path": path, "value": name}));
        }
    }

    /// How many operations there are; to be given to [`Edit::forget_if_idle`].
    pub(crate) fn mark(&self) -> usize {
        self.operations.len()
    }

    /// Forgets the one operation since `mark` when it only checks a name.
    pub(crate) fn forget_if_idle(&mut self, mark: usize) {
        if self.operations.len() == mark.saturating_add(1) {
            self.operations.truncate(mark);
        }
    }
}

/// A key as a part of a path.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn plain(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Edit, escaped};

    #[test]
    fn the_operations_make_of_the_old_what_the_new_is() {
        let old = json!({"metadata": {"annotations": null}, "spec": {"containers": [{"name": "a"}, {"name": "b", "x": 1}]}});
        let mut edit = Edit::new(old.clone());
        edit.map("/metadata/annotations");
        edit.put(&format!("/metadata/annotations/{}", escaped("a~b/c")), json!("d"));
        edit.list("/spec/volumes");
        edit.push("/spec/volumes", json!({"name": "v"}));
        edit.remove("/spec/containers", 0);
        edit.insert("/spec/containers", 0, json!({"name": "c"}));
        edit.put("/spec/containers/1/x", json!(2));
        edit.put("/spec/containers/1/x", json!(2));
        let new = edit.pod().clone();
        assert_eq!(new["metadata"]["annotations"]["a~b/c"], "d");
        let patch: json_patch::Patch =
            serde_json::from_value(edit.into_operations().into()).expect("a patch");
        let mut patched = old;
        json_patch::patch(&mut patched, &patch).expect("it applies");
        assert_eq!(patched, new);
    }
}
