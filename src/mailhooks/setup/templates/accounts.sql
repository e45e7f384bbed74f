{#- Queries on the accounts database that ask where an address leads. Included by
    templates; Postfix puts the address in for %s and its domain for %d.

    asked    what the address is known by here: itself, less its +extension, or
             the catch-all of its domain
    reached  that, and all it leads to; UNION ends loops
    leaf     those of them that lead no further, or to themselves as well -#}

{%- macro plain(address) -%}
CASE WHEN instr({{ address }}, '+') BETWEEN 2 AND instr({{ address }}, '@')
    THEN substr({{ address }}, 1, instr({{ address }}, '+') - 1)
      || substr({{ address }}, instr({{ address }}, '@'))
    ELSE {{ address }} END
{%- endmacro -%}

{%- macro where_it_leads() -%}
WITH RECURSIVE
    short(address) AS (SELECT {{ plain("'%s'") }}),
    asked(address) AS (SELECT CASE
      WHEN EXISTS (SELECT 1 FROM alias WHERE source = '%s') THEN '%s'
      WHEN EXISTS (SELECT 1 FROM mailuser JOIN short ON mailuser.address = short.address)
        OR EXISTS (SELECT 1 FROM alias JOIN short ON source = short.address) THEN address
      ELSE '@%d' END FROM short),
    reached(address) AS (SELECT address FROM asked
      UNION SELECT destination FROM alias JOIN reached ON source = reached.address),
    leaf(address, plain) AS (SELECT address, {{ plain("address") }} FROM reached
      WHERE NOT EXISTS (SELECT 1 FROM alias WHERE source = reached.address)
        OR EXISTS (SELECT 1 FROM alias
          WHERE source = reached.address AND destination = reached.address))
{%- endmacro -%}
