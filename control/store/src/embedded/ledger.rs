//! The ledger in SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use sideguard_types::time::Timestamp;

use super::documents::read_key;
use super::{Embedded, int, uint};
use crate::error::StoreError;
use crate::key::Key;
use crate::ledger::{
    Balance, Hold, LeaseId, Ledger, Line, Standing, Turn, check, check_turn, other_lines,
};

#[async_trait]
impl Ledger for Embedded {
    async fn hold(&self, lease: &LeaseId, lines: &[Line], expires: Timestamp) -> Result<Hold, StoreError> {
        let lines = check(lines)?;
        let lease = lease.clone();
        self.write(move |db| hold(db, &lease, lines, expires), |_| ()).await
    }

    async fn settle(&self, lease: &LeaseId, turn: &Turn) -> Result<Standing, StoreError> {
        check_turn(lease, &turn.spent, &turn.keep)?;
        let (lease, turn) = (lease.clone(), turn.clone());
        self.write(move |db| settle(db, &lease, &turn), |_| ()).await
    }

    async fn close(&self, lease: &LeaseId, spent: &[u64]) -> Result<(), StoreError> {
        let keep = vec![0; spent.len()];
        check_turn(lease, spent, &keep)?;
        let (lease, spent) = (lease.clone(), spent.to_vec());
        let write = move |db: &Connection| {
            if find(db, &lease)?.is_none() {
                return Ok(());
            }
            let lines = held(db, &lease)?;
            charge(db, &lease, &lines, &spent, &keep)?;
            end(db, lease.0.as_str())
        };
        self.write(write, |()| ()).await
    }

    async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<LeaseId>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.write(move |db| expire(db, now, limit), |_| ()).await
    }

    async fn balance(&self, accounts: &[Key]) -> Result<Vec<Balance>, StoreError> {
        let accounts = accounts.to_vec();
        self.read(move |db| accounts.iter().map(|account| balance(db, account)).collect()).await
    }

    async fn forget(&self, account: &Key) -> Result<bool, StoreError> {
        let account = account.clone();
        let write = move |db: &Connection| {
            let held = balance(db, &account)?.held;
            if held == 0 {
                db.prepare_cached("DELETE FROM accounts WHERE key = ?")?.execute([account.as_str()])?;
            }
            Ok(held == 0)
        };
        self.write(write, |_| ()).await
    }
}

fn hold(db: &Connection, lease: &LeaseId, lines: Vec<Line>, expires: Timestamp) -> Result<Hold, StoreError> {
    if find(db, lease)?.is_some() {
        let present = held(db, lease)?;
        if !present.iter().map(|(account, _)| account).eq(lines.iter().map(|line| &line.account)) {
            return Err(other_lines(lease));
        }
        return Ok(Hold::Held { granted: present.into_iter().map(|(_, held)| held).collect() });
    }
    let mut granted = Vec::with_capacity(lines.len());
    for line in &lines {
        let balance = balance(db, &line.account)?;
        let free = line.limit.saturating_sub(balance.spent.saturating_add(balance.held));
        if free < line.least {
            return Ok(Hold::Short { account: line.account.clone(), free });
        }
        granted.push(free.min(line.want));
    }
    db.prepare_cached("INSERT INTO leases (key, turn, expires) VALUES (?, 0, ?)")?
        .execute(params![lease.0.as_str(), expires.0])?;
    for ((at, line), amount) in (0_i64..).zip(&lines).zip(&granted) {
        db.prepare_cached("INSERT INTO lines (lease, line, account, held) VALUES (?, ?, ?, ?)")?
            .execute(params![lease.0.as_str(), at, line.account.as_str(), int(*amount)])?;
        add(db, &line.account, 0, int(*amount))?;
    }
    Ok(Hold::Held { granted })
}

fn settle(db: &Connection, lease: &LeaseId, turn: &Turn) -> Result<Standing, StoreError> {
    let Some(settled) = find(db, lease)? else { return Ok(Standing::Gone) };
    let lines = held(db, lease)?;
    if lines.len() != turn.spent.len() {
        return Err(other_lines(lease));
    }
    if turn.number <= settled {
        return Ok(Standing::Open { turn: settled, held: lines.into_iter().map(|(_, held)| held).collect() });
    }
    charge(db, lease, &lines, &turn.spent, &turn.keep)?;
    db.prepare_cached("UPDATE leases SET turn = ?2, expires = ?3 WHERE key = ?1")?
        .execute(params![lease.0.as_str(), int(turn.number), turn.expires.0])?;
    for (at, keep) in (0_i64..).zip(&turn.keep) {
        db.prepare_cached("UPDATE lines SET held = ?3 WHERE lease = ?1 AND line = ?2")?
            .execute(params![lease.0.as_str(), at, int(*keep)])?;
    }
    Ok(Standing::Open { turn: turn.number, held: turn.keep.clone() })
}

/// Moves `spent` and gives back what is neither spent nor kept, in the accounts only.
fn charge(
    db: &Connection,
    lease: &LeaseId,
    lines: &[(Key, u64)],
    spent: &[u64],
    keep: &[u64],
) -> Result<(), StoreError> {
    if lines.len() != spent.len() {
        return Err(other_lines(lease));
    }
    for (((account, held), spent), keep) in lines.iter().zip(spent).zip(keep) {
        if spent + keep > *held {
            return Err(StoreError::Beyond { account: account.clone(), held: *held });
        }
        add(db, account, int(*spent), int(*keep) - int(*held))?;
    }
    Ok(())
}

fn expire(db: &Connection, now: Timestamp, limit: i64) -> Result<Vec<LeaseId>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT key FROM leases WHERE expires <= ? ORDER BY expires, key LIMIT ?")?;
    let texts = statement.query_map(params![now.0, limit], |row| row.get::<_, String>(0))?;
    let leases = texts.map(|text| read_key(&text?).map(LeaseId)).collect::<Result<Vec<_>, _>>()?;
    for lease in &leases {
        for (account, held) in held(db, lease)? {
            add(db, &account, int(held), -int(held))?;
        }
        end(db, lease.0.as_str())?;
    }
    Ok(leases)
}

fn end(db: &Connection, lease: &str) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM lines WHERE lease = ?")?.execute([lease])?;
    db.prepare_cached("DELETE FROM leases WHERE key = ?")?.execute([lease])?;
    Ok(())
}

fn find(db: &Connection, lease: &LeaseId) -> Result<Option<u64>, StoreError> {
    Ok(db
        .prepare_cached("SELECT turn FROM leases WHERE key = ?")?
        .query_row([lease.0.as_str()], |row| row.get(0).map(uint))
        .optional()?)
}

fn held(db: &Connection, lease: &LeaseId) -> Result<Vec<(Key, u64)>, StoreError> {
    db.prepare_cached("SELECT account, held FROM lines WHERE lease = ? ORDER BY line")?
        .query_map([lease.0.as_str()], |row| Ok((row.get::<_, String>(0)?, uint(row.get(1)?))))?
        .map(|line| {
            let (account, held) = line?;
            Ok((read_key(&account)?, held))
        })
        .collect()
}

fn balance(db: &Connection, account: &Key) -> Result<Balance, StoreError> {
    let found = db
        .prepare_cached("SELECT spent, held FROM accounts WHERE key = ?")?
        .query_row([account.as_str()], |row| {
            Ok(Balance { spent: uint(row.get(0)?), held: uint(row.get(1)?) })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn add(db: &Connection, account: &Key, spent: i64, held: i64) -> Result<(), StoreError> {
    if (spent, held) == (0, 0) {
        return Ok(());
    }
    // The upsert's checks see the sums: a negative one would be an error, not a wrong balance.
    db.prepare_cached("INSERT OR IGNORE INTO accounts (key, spent, held) VALUES (?, 0, 0)")?
        .execute([account.as_str()])?;
    db.prepare_cached("UPDATE accounts SET spent = spent + ?2, held = held + ?3 WHERE key = ?1")?
        .execute(params![account.as_str(), spent, held])?;
    Ok(())
}
