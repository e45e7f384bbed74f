# mailhooks: learning. Dovecot's imapsieve runs this after a message has been
# copied or moved into Junk or out of it, once for each message. mailhooks
# decides what the move means, keeps the sample on disk and answers at once.
require ["copy", "environment", "imapsieve", "variables",
         "vnd.dovecot.environment", "vnd.dovecot.imapsieve", "vnd.dovecot.pipe"];

if environment :matches "imap.cause" "*" { set "cause" "${1}"; }
if environment :matches "vnd.dovecot.mailbox-from" "*" { set "source" "${1}"; }
if environment :matches "vnd.dovecot.mailbox-to" "*" { set "destination" "${1}"; }

# Arguments have names, since an empty one would end Dovecot's request header.
# Within one mailbox nothing is learned; and such a copy fires two rules, of
# which only one could be piped.
if not string :is "${source}" "${destination}" {
  pipe :copy "mailhooks-learn" ["cause=${cause}", "from=${source}", "to=${destination}"];
}
