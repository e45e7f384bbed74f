# mailhooks: learning. Dovecot's imapsieve runs this once for each message that
# was copied, moved, appended or flagged, in whatever mailbox. The script sends
# on only what may teach something; mailhooks decides what it teaches, keeps
# the sample on disk and answers at once.
# If it does not answer, mailhooks-drop keeps the call until it is back.
#
# Which mailboxes are Junk, Trash, Sent and Drafts comes from Dovecot's
# settings sieve_env_mailhooks_*, which mailhooks renders from [mailboxes].
# Without them, everything is sent.
require ["copy", "environment", "imap4flags", "imapsieve", "regex", "variables",
         "vnd.dovecot.environment", "vnd.dovecot.imapsieve", "vnd.dovecot.execute"];

if environment :is "imap.cause" "FLAG" {
  # Most flag changes are \Seen: this one test is all they cost.
  if environment :contains "imap.changedflags" "junk" {
    if environment :matches "imap.mailbox" "*" { set "to" "${1}"; }
    if string :comparator "i;ascii-casemap" :regex "${to}/"
        "${env.vnd.dovecot.config.mailhooks_top}" { set "to_top" "${3}"; }

    # changedflags names what was set and what was taken away alike; the
    # message's flags tell which.
    if environment :matches "imap.changedflags" "*" { set "changed" " ${1} "; }
    # A string is compared with regard to case unless it is told otherwise.
    set "junk" "same";
    if string :comparator "i;ascii-casemap" :contains "${changed}" [" $Junk ", " Junk "] {
      set "junk" "cleared";
      if hasflag ["$Junk", "Junk"] { set "junk" "set"; }
    }
    set "notjunk" "same";
    if string :comparator "i;ascii-casemap" :contains "${changed}" [" $NotJunk ", " NonJunk "] {
      set "notjunk" "cleared";
      if hasflag ["$NotJunk", "NonJunk"] { set "notjunk" "set"; }
    }
    if allof (not string :is ["${junk} ${notjunk}"] ["same same", "same cleared"],
              not environment :contains "vnd.dovecot.config.mailhooks_silent" "/${to_top}/") {
      # Arguments have names, since an empty one would end Dovecot's request header.
      if not execute :pipe "mailhooks-learn"
        ["cause=FLAG", "to=${to}", "junk=${junk}", "notjunk=${notjunk}"] {
        execute :pipe "mailhooks-drop"
          ["cause=FLAG", "to=${to}", "junk=${junk}", "notjunk=${notjunk}"];
      }
    }
  }
} else {
  if environment :matches "vnd.dovecot.mailbox-to" "*" { set "to" "${1}"; }
  # An APPEND comes from no mailbox: to ask for it ends the IMAP process, from Dovecot 2.4.3 on.
  # Only a name of several levels needs the expression, which takes longer than all the rest.
  if environment :is "imap.cause" "COPY" {
    if environment :matches "vnd.dovecot.mailbox-from" "*" { set "from" "${1}"; }
    set "from_top" "${from}";
    if string :contains "${from}" ["/", "."] {
      if string :comparator "i;ascii-casemap" :regex "${from}/"
          "${env.vnd.dovecot.config.mailhooks_top}" { set "from_top" "${3}"; }
    }
  }
  set "to_top" "${to}";
  if string :contains "${to}" ["/", "."] {
    if string :comparator "i;ascii-casemap" :regex "${to}/"
        "${env.vnd.dovecot.config.mailhooks_top}" { set "to_top" "${3}"; }
  }
  # What a regular expression finds is garbled by Dovecot 2.4.5 unless it is ASCII.
  set "known" "yes";
  if not allof (string :contains "${from}" "${from_top}", string :contains "${to}" "${to_top}") {
    set "known" "no";
  }

  if environment :is "imap.cause" "APPEND" {
    if anyof (string :is "${known}" "no",
              environment :contains "vnd.dovecot.config.mailhooks_junk" "/${to_top}/",
              not environment :contains "vnd.dovecot.config.mailhooks_junk" "/") {
      if not execute :pipe "mailhooks-learn"
        ["cause=APPEND", "to=${to}"] {
        execute :pipe "mailhooks-drop"
          ["cause=APPEND", "to=${to}"];
      }
    }
  } elsif allof (
      # Into Junk or out of it, but not within one mailbox, and not to be thrown away.
      not string :is "${from}" "${to}",
      anyof (
        string :is "${known}" "no",
        environment :contains "vnd.dovecot.config.mailhooks_junk" "/${to_top}/",
        allof (environment :contains "vnd.dovecot.config.mailhooks_junk" "/${from_top}/",
               not environment :contains "vnd.dovecot.config.mailhooks_silent" "/${to_top}/"),
        not environment :contains "vnd.dovecot.config.mailhooks_junk" "/")) {
    if not execute :pipe "mailhooks-learn"
        ["cause=COPY", "from=${from}", "to=${to}"] {
      execute :pipe "mailhooks-drop"
        ["cause=COPY", "from=${from}", "to=${to}"];
    }
  }
}
