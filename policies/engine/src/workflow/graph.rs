//! Which step comes before which.

use std::collections::BTreeSet;

/// A way that leads back to where it began, by number; `needs` says which steps each step needs.
pub(super) fn cycle(needs: &[Vec<usize>]) -> Option<Vec<usize>> {
    // 0: not seen, 1: on the way, 2: leads to no cycle.
    let mut marks = vec![0_u8; needs.len()];
    for start in 0..needs.len() {
        let mut way: Vec<(usize, usize)> = Vec::new();
        if marks.get(start) == Some(&0) {
            mark(&mut marks, start, 1);
            way.push((start, 0));
        }
        while let Some((at, next)) = way.last_mut() {
            let Some(&need) = needs.get(*at).and_then(|needs| needs.get(*next)) else {
                mark(&mut marks, *at, 2);
                way.pop();
                continue;
            };
            *next = next.saturating_add(1);
            match marks.get(need) {
                Some(0) => {
                    mark(&mut marks, need, 1);
                    way.push((need, 0));
                }
                Some(1) => {
                    let back = way.iter().skip_while(|(step, _)| *step != need).map(|(step, _)| *step);
                    return Some(back.chain([need]).collect());
                }
                _ => {}
            }
        }
    }
    None
}

fn mark(marks: &mut [u8], at: usize, value: u8) {
    if let Some(mark) = marks.get_mut(at) {
        *mark = value;
    }
}

/// The steps that each step needs, directly or through others. Without cycles only.
pub(super) fn ancestors(needs: &[Vec<usize>]) -> Vec<BTreeSet<usize>> {
    let mut all: Vec<BTreeSet<usize>> = needs.iter().map(|needs| needs.iter().copied().collect()).collect();
    // A way is no longer than there are steps, and each round doubles what is known.
    loop {
        let mut grown = false;
        for at in 0..all.len() {
            let mut more = all.get(at).cloned().unwrap_or_default();
            let before = more.len();
            let further: Vec<usize> =
                more.iter().filter_map(|need| all.get(*need)).flatten().copied().collect();
            more.extend(further);
            grown |= more.len() > before;
            if let Some(slot) = all.get_mut(at) {
                *slot = more;
            }
        }
        if !grown {
            return all;
        }
    }
}
