-- miltertest drives the milter's real socket: two messages on one connection.
-- Given with -D: socket, report (as Rspamd writes it for queue id 4Q).

local function check(true_, what)
	if not true_ then
		error(what)
	end
end

local function main()
	local conn = mt.connect(socket)
	check(conn, "cannot connect")
	-- The actions and steps of Postfix.
	check(mt.negotiate(conn, nil, nil, nil) == nil, "negotiation failed")
	check(mt.test_action(conn, SMFIF_ADDHDRS), "does not ask to add headers")
	check(mt.test_action(conn, SMFIF_CHGHDRS), "does not ask to change headers")
	-- miltertest ends with an error at any step the milter has asked to be spared:
	-- connection, HELO, recipients and body.
	for _, spared in ipairs({ SMFIP_NOCONNECT, SMFIP_NOHELO, SMFIP_NORCPT, SMFIP_NOBODY }) do
		check(mt.test_option(conn, spared), "wants what it does not need: " .. spared)
	end

	local function message(queue_id, fields)
		check(mt.macro(conn, SMFIC_MAIL, "i", queue_id, "{mail_addr}", "news@example.org") == nil, "macro")
		check(mt.mailfrom(conn, "<news@example.org>") == nil, "mailfrom")
		for _, each in ipairs(fields) do
			check(mt.header(conn, each[1], each[2]) == nil, "header")
		end
		check(mt.eom(conn) == nil, "eom")
		check(mt.getreply(conn) == SMFIR_CONTINUE, "the message does not pass: " .. mt.getreply(conn))
	end

	local identity = {
		{ "From", "News <news@example.org>" },
		{ "Message-ID", "<1@example.org>" },
		{ "Date", "Sun, 22 Nov 2026 10:00:00 +0000" },
	}

	local scored = { { "X-Mailhooks-Rspamd", report }, { "X-Spam-Status", "No" } }
	for _, each in ipairs(identity) do
		table.insert(scored, each)
	end
	message("4Q", scored)
	check(mt.eom_check(conn, MT_HDRINSERT, "X-Mailhooks-Score"), "no score is carried")
	check(mt.eom_check(conn, MT_HDRDELETE, "x-mailhooks-rspamd"), "the report stays")
	check(mt.eom_check(conn, MT_HDRDELETE, "x-spam-status"), "a stranger's status stays")
	check(not mt.eom_check(conn, MT_HDRDELETE, "From"), "From is gone")
	check(not mt.eom_check(conn, MT_BODYCHANGE), "the body is changed")
	mt.echo("score=" .. mt.getheader(conn, "X-Mailhooks-Score", 0))

	-- The report of another message, on the same connection.
	message("4Other", scored)
	check(not mt.eom_check(conn, MT_HDRINSERT), "a stolen report becomes a score")
	check(mt.eom_check(conn, MT_HDRDELETE, "x-mailhooks-rspamd"), "a stolen report stays")

	mt.disconnect(conn, true)
end

-- miltertest itself says nothing of an error.
local ok, problem = pcall(main)
if not ok then
	mt.echo(problem)
	error(problem)
end
