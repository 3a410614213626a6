//! What every store promises, as one suite that runs over both: each case gets two replicas of a fresh store, which are
//! the same for the embedded one.

mod crash;
mod documents;
mod journal;
mod ledger;
mod model;
mod notices;
mod outage;
mod stores;

macro_rules! promises {
    ($store:ident: $($module:ident { $($case:ident)+ })+) => {
        mod $store {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let fresh = crate::stores::$store().await;
                    let case = crate::$module::$case(fresh.one.clone(), fresh.other.clone());
                    // A promise that is broken by waiting forever fails as well.
                    tokio::time::timeout(std::time::Duration::from_secs(60), case).await.expect("an end");
                    fresh.one.health().await.expect("a healthy store");
                    fresh.end().await;
                })+
            })+
        }
    };
}

macro_rules! every_store {
    ($($cases:tt)+) => {
        promises!(embedded: $($cases)+);
        promises!(shared: $($cases)+);
    };
}

every_store! {
    documents {
        a_document_is_what_was_last_put
        an_expectation_that_does_not_hold_changes_nothing
        documents_change_together_or_not_at_all
        concurrent_writers_lose_no_update
        a_document_is_gone_when_its_time_is_over
        a_listing_has_every_document_once_and_in_order
        tenants_do_not_see_each_other
        a_watch_tells_of_every_change
        values_are_any_bytes_up_to_a_size
    }
    ledger {
        a_hold_gets_between_least_and_want_on_every_line_or_nothing
        a_hold_that_is_repeated_holds_once
        a_turn_counts_once
        a_lease_cannot_spend_more_than_it_holds
        a_closed_lease_gives_back_what_is_left
        a_lease_whose_time_is_over_is_charged_in_full
        an_account_is_forgotten_when_nothing_is_held
        amounts_are_exact_up_to_the_largest
        concurrent_leases_never_exceed_a_limit
    }
    model {
        the_ledger_does_what_a_plain_sum_does
    }
    journal {
        entries_keep_their_positions
        a_repeated_append_is_skipped_and_another_entry_is_a_fork
        a_hole_is_refused
        concurrent_appends_make_one_line
        large_entries_are_read_in_parts
        truncation_keeps_the_rest_and_the_end
        any_position_is_found_among_other_journals
        journals_are_listed_by_scope
    }
    notices {
        a_notice_reaches_every_subscriber_of_its_topic
        a_bad_topic_is_refused
    }
}
