# mailhooks: the delivery pass. Runs before a user's own script, once for each
# recipient (plugin setting sieve_before). Asks mailhooks for this user's
# verdict, files junk, and lets everything else go on to the user's script.
#
# If mailhooks does not answer, the message goes the way it would go without it.
require ["editheader", "fileinto", "mailbox", "variables", "vnd.dovecot.execute"];

set "status" "No, mailhooks did not answer";
set "folder" "inbox";
set "score" "unknown";
# Dovecot allows 5 ms for a connection and looks at the clock before it looks at the
# socket: on a busy host some connections are lost that were made in time. Hence twice.
if anyof (execute :pipe :output "answer" "mailhooks-classify",
          execute :pipe :output "answer" "mailhooks-classify" ["again"]) {
  if string :matches "${answer}" "* * *" {
    set "folder" "${1}";
    set "score" "${2}";
    set "status" "${3}";
  }
}

# Pigeonhole before 0.5.21 aborts when it edits a header with a line that is no field
# (see "Broken headers" in docs/verdict.md): such a message is filed as it is.
if not string :matches "${score}" "broken-*" {
  # What a stranger wrote into such headers is gone, whatever the verdict.
  deleteheader "X-Mailhooks-Rspamd";
  deleteheader "X-Spam";
  deleteheader "X-Spam-Action";
  deleteheader "X-Spam-Bar";
  deleteheader "X-Spam-Bayes";
  deleteheader "X-Spam-Checker-Version";
  deleteheader "X-Spam-Details";
  deleteheader "X-Spam-Flag";
  deleteheader "X-Spam-Level";
  deleteheader "X-Spam-Prev-Subject";
  deleteheader "X-Spam-Report";
  deleteheader "X-Spam-Result";
  deleteheader "X-Spam-Score";
  deleteheader "X-Spam-Status";
  deleteheader "X-Spam-Symbols";
  deleteheader "X-Spamd-Bar";
  deleteheader "X-Spamd-Result";
  deleteheader "X-Rspamd-Action";
  deleteheader "X-Rspamd-Queue-Id";
  deleteheader "X-Rspamd-Score";
  deleteheader "X-Rspamd-Server";
  if string :is "${score}" "none" {
    deleteheader "X-Mailhooks-Score";
  }
  addheader "X-Spam-Status" "${status}";
}

if string :is "${folder}" "junk" {
  if not string :matches "${score}" "broken-*" {
    addheader "X-Spam-Flag" "YES";
  }
  fileinto :create "Junk";
}
