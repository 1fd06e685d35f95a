//! Each model as a test.

macro_rules! models {
    ($($module:ident: $($name:ident)*;)*) => {
        $($(
            #[test]
            fn $name() {
                loom_tests::$module::$name();
            }
        )*)*
    };
}

models! {
    append:
        a_reader_sees_whole_frames_only
        what_is_before_the_prefix_may_be_read
        a_batch_is_seen_whole
        the_end_of_a_segment_is_tiled
        a_roll_with_a_standby
        who_rolls_hands_on_what_was_published
        a_roll_between_the_look_and_the_add
        a_roll_without_a_standby
        a_withdrawn_standby_never_becomes_active
        a_roll_against_a_withdrawal
        a_closed_segment_has_no_standby
        an_abandoned_claim_is_void
        the_prefix_is_contiguous
        what_one_found_another_walks_on_from
        a_dead_process_leaves_no_body_without_a_claim
        slots_are_used_again
        a_slot_is_used_again_after_it_is_finished
        a_segment_is_let_go_after_a_commit
        a_segment_is_let_go_after_a_void
        a_segment_is_let_go_after_a_pad
        the_walker_enters_what_others_published
        a_position_is_of_one_segment
        a_position_is_not_of_a_later_segment
        closing_again_changes_no_roll
        a_reader_beside_recovery_sees_whole_frames_only;
    scan:
        a_scan_meets_an_overwritten_key_once
        a_scan_meets_a_merged_key_once
        a_scan_meets_a_deleted_key_once_or_not
        a_scan_marks_a_key_beside_a_writer;
    slot:
        a_merge_undoes_no_write
        a_get_sees_a_whole_value
        a_get_reads_no_unmapped_segment
        a_batch_is_seen_whole_in_its_slots;
    waiting:
        every_waiter_is_woken
        who_is_left_leads
        the_watermark_comes_after_the_sync
        a_failure_reaches_every_waiter
        a_panicking_leader_wakes_the_others
        a_failed_thread_leaves_no_task_asleep
        a_task_is_woken
        no_append_is_slept_through
        no_commit_is_slept_through
        no_sync_mark_is_slept_through
        no_void_is_slept_through
        no_pad_is_slept_through
        no_commit_is_slept_through_by_two
        no_commit_is_slept_through_by_a_task
        what_is_pinned_stays_mapped;
}
