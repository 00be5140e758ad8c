//! Wanted paths.

/// Wanted paths, made for looking up keys as they come.
#[derive(Debug)]
pub struct Paths<F> {
    nodes: Vec<Node<F>>,
}

#[derive(Debug)]
struct Node<F> {
    field: Option<F>,
    members: Vec<(&'static [u8], u16)>,
    /// [`mark`]s of the members: most keys of a document are told apart by it.
    marks: u64,
    /// Node of all elements of an array here.
    element: u16,
}

/// Nothing below is wanted.
pub(in crate::llm) const UNWANTED: u16 = u16::MAX;

pub(in crate::llm) const ROOT: u16 = 0;

/// One of 64 bits, by length and first byte.
fn mark(key: &[u8]) -> u64 {
    let first = key.first().map_or(0, |byte| usize::from(*byte));
    1 << (key.len().wrapping_mul(7).wrapping_add(first) % 64)
}

impl<F: Copy> Paths<F> {
    /// Paths like `/choices/*/finish_reason`; `*` stands for every element of an array.
    pub fn new(wanted: &[(&'static str, F)]) -> Paths<F> {
        let mut paths =
            Paths { nodes: vec![Node { field: None, members: Vec::new(), marks: 0, element: UNWANTED }] };
        for (path, field) in wanted {
            let mut at = usize::from(ROOT);
            for key in path.split('/').skip(1) {
                at = paths.child(at, key);
            }
            if let Some(node) = paths.nodes.get_mut(at) {
                node.field = Some(*field);
            }
        }
        paths
    }

    fn child(&mut self, at: usize, key: &'static str) -> usize {
        let fresh = u16::try_from(self.nodes.len()).unwrap_or(UNWANTED);
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let known = if key == "*" {
            node.element
        } else {
            node.members
                .iter()
                .find(|(name, _)| *name == key.as_bytes())
                .map_or(UNWANTED, |(_, child)| *child)
        };
        if known != UNWANTED {
            return usize::from(known);
        }
        if key == "*" {
            node.element = fresh;
        } else {
            node.members.push((key.as_bytes(), fresh));
            node.marks |= mark(key.as_bytes());
        }
        self.nodes.push(Node { field: None, members: Vec::new(), marks: 0, element: UNWANTED });
        usize::from(fresh)
    }

    pub(in crate::llm) fn member(&self, at: u16, key: &[u8]) -> u16 {
        let Some(node) = self.nodes.get(usize::from(at)) else { return UNWANTED };
        if node.marks & mark(key) == 0 {
            return UNWANTED;
        }
        node.members.iter().find(|(name, _)| *name == key).map_or(UNWANTED, |(_, child)| *child)
    }

    pub(super) fn element(&self, at: u16) -> u16 {
        self.nodes.get(usize::from(at)).map_or(UNWANTED, |node| node.element)
    }

    /// Whether something below the node is wanted.
    pub(in crate::llm) fn is_inner(&self, at: u16) -> bool {
        self.nodes.get(usize::from(at)).is_some_and(|node| !node.members.is_empty())
    }

    pub(in crate::llm) fn field(&self, at: u16) -> Option<F> {
        self.nodes.get(usize::from(at)).and_then(|node| node.field)
    }
}
